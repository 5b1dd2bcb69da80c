"""The log and the ledger in Django's admin, to be read; tenants and their members, to be kept.

Every list here is a bounded look at the log (`looks`): no count, no DISTINCT, no OFFSET.
"""

from agent_events.admin import events, ledger, tenants

__all__ = ["events", "ledger", "tenants"]
