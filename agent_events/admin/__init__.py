"""The bus, the log and the ledger in the admin, to be read; tenants, members and keys, to be kept.

Every list here is a bounded look at the log (`looks`): no count, no DISTINCT, no OFFSET.
"""

from agent_events.admin import bus, events, keys, ledger, tenants

__all__ = ["bus", "events", "keys", "ledger", "tenants"]
