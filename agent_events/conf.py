"""The settings: one dict `AGENT_EVENTS`, every key with a default, read lazily."""

import math
import re
from dataclasses import Field, dataclass, fields
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

DEFAULT_RESOLVER = "agent_events.access.resolve"


@dataclass(frozen=True, slots=True)
class Settings:
    """`AGENT_EVENTS = {"POLL_INTERVAL_S": 1.0, ...}`; units are in the names."""

    database: str = "default"
    """The alias in DATABASES that holds the log."""
    listener_dsn: str = ""
    """Where the listening connection goes: direct, past a transaction-mode pooler. Empty: the
    same server as `database`."""
    channel_layer: str = "default"
    """The alias in CHANNEL_LAYERS that carries slices."""

    broker_url: str = ""
    """`"nats://..."` or `"redis://..."`: `listen_events` publishes there, and web processes read
    there, in place of listening to PostgreSQL. Empty: no broker. May name several servers of one
    NATS cluster, separated by commas, and hold a user and a password."""
    broker_name: str = "agent_events"
    """What the broker's stream, subjects and keys begin with: another one for each log that shares
    a broker."""
    broker_shards: int = 1
    """How many parts what is published is divided into, by tenant. So many workers at most publish
    at the same time. The same in every process."""
    broker_bytes: int = 268_435_456
    """Bytes that the broker keeps at most, for readers that were away for a moment."""
    broker_messages: int = 100_000
    """Messages that it keeps at most, in each shard."""
    broker_replicas: int = 1
    """NATS: on how many servers of the cluster the stream is."""
    broker_credentials: str = ""
    """NATS: the path of a credentials file (`.creds`). Empty: what the address says."""
    broker_ca_file: str = ""
    """The path of the certificates that the broker's is checked against, for `tls://` and
    `rediss://`. Empty: those of the system."""
    broker_cert_file: str = ""
    """The path of our own certificate, for a broker that asks for one. Empty: none."""
    broker_key_file: str = ""
    """The path of its key, without a passphrase; may be the same file."""
    broker_timeout_s: float = 2.0
    """A broker that has not answered for so long is away."""

    poll_interval_s: float = 1.0
    """How often a source looks by itself: the longest that a lost notification delays an event."""
    append_interval_s: float = 0.01
    """Under load, batches are closed this far apart; a quiet log does not wait."""
    batch_limit: int = 10_000
    """Events a batch at most, but for one transaction of more."""
    mode: str = "auto"
    """`"ring"`: each commit rings, always. `"coalesce"`: never while a process closes batches;
    they are closed `append_interval_s` apart. `"auto"`: as the load is."""
    coalesce_above: float = 1_000.0
    """In `"auto"`: coalescing begins where more than so many commits a second ring."""
    ring_below: float = 700.0
    """In `"auto"`: coalescing ends where fewer than so many events a second come."""
    tenant_bodies: bool = True
    """Are the channels `agent_event_<tenant>` notified at all? Any role of the database may LISTEN
    there, past GRANT and row-level security."""
    follow_patience_s: float = 0.25
    """How long a process that was rung waits for the sequencer's batch before it appends itself."""
    query_timeout_s: float = 5.0
    """A connection of the bus, or a look at who asks, that takes longer than this is dead."""

    page_rows: int = 1_000
    """Events a page when a subscriber reads the log."""
    page_bytes: int = 1_048_576
    """Bytes of events (JSON) a page at most, but for one event of more; also of a slice."""
    slice_rows: int = 1_000
    """Events a slice at most; of more, subscribers read the log."""
    read_pool_size: int = 4
    """Connections a process opens for reading the log, beside the listening one; 2 at least, since
    one is kept for what is live."""

    queue_events: int = 2_000
    """Events that may wait for one subscriber; past that it reads the log."""
    queue_bytes: int = 1_048_576
    """Characters of events (JSON) that may wait for one subscriber; likewise."""
    heartbeat_s: float = 10.0
    """A stream with nothing to say says so this often."""
    tick_timeout_s: float = 3.0
    """No tick for so long: a feed joins its group again and reads the log."""

    ack_window_bytes: int = 1_048_576
    """Bytes that a WebSocket client may leave unacknowledged before the server waits for it."""
    ack_timeout_s: float = 30.0
    """How long the server waits for it before it closes the connection."""
    sse_recycle_bytes: int = 8_388_608
    """An SSE response ends after so many bytes (EventSource resumes by itself): the bound on
    what a server without back-pressure holds for a client that does not read."""
    sse_recycle_s: float = 900.0
    """An SSE response ends after this time."""

    export_bytes: int = 33_554_432
    """A downloaded file ends after so many bytes, and says where to go on: the bound on what a
    server without back-pressure holds for a client that does not read."""

    metrics_token: str = ""
    """Whoever sends it (`Authorization: Bearer`) may see `/metrics`. Empty: superusers alone."""

    principal_resolver: str = DEFAULT_RESOLVER
    """The dotted path of the function that says who asks, and what they may: docs/security.md."""
    revoke_within_s: float = 5.0
    """What was taken away (a key, a membership, a session) stops a live stream within this time."""
    expiring_s: float = 30.0
    """So long before a token ends, its streams are told."""
    auth_timeout_s: float = 10.0
    """So long a WebSocket without credentials may take to send its `auth` frame."""
    token_minutes: int = 60
    """Minutes of life of a stream token at most."""
    ticket_s: float = 30.0
    """A ticket must be used within this time."""
    cors_origins: tuple[str, ...] = ()
    """The origins whose pages may use the API and the streams, such as `"https://app.example"`;
    `"*"`: any, but without cookies. Empty: those of this site alone."""

    streams_per_principal: int = 200
    """Live streams of one principal at most, in each process."""
    frame_bytes: int = 65_536
    """Bytes of a WebSocket client's frame at most."""
    inline_payload_bytes: int = 65_536
    """A larger payload is not on the streams: `"payload": null`, and the address of the event."""

    post_bytes: int = 4_194_304
    """Bytes of a request that publishes at most."""
    post_events: int = 1_000
    """Events of one at most."""
    post_payload_bytes: int = 1_048_576
    """Bytes of one event's payload at most."""
    post_rate: float = 1_000.0
    """Events a second that one principal may publish, in each process; a second's worth at once."""
    post_connections: int = 2
    """Connections a process opens for what is published over HTTP."""
    shared_posts: int = 256
    """Requests that may share one commit. 1: each has its own."""
    keys_kept_s: float = 604_800.0
    """An idempotency key is known for so long; `prune_events` deletes older ones."""


MODES = ("auto", "ring", "coalesce")
MAY_BE_EMPTY = (
    "broker_url",
    "broker_credentials",
    "broker_ca_file",
    "broker_cert_file",
    "broker_key_file",
)
"""Texts of which an empty one means: none."""
MAY_BE_ZERO = ("append_interval_s", "follow_patience_s")
"""All other numbers must be more than that."""
AT_MOST = {"broker_shards": 64}
"""Each shard is a lock that a worker holds, and a mark for each window."""
SECRET = ("LISTENER_DSN", "METRICS_TOKEN", "BROKER_URL")
"""No message repeats their values: a connection string holds a password."""


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings in force.

    Raises ImproperlyConfigured for a key that does not exist, and for a value of another type than
    the default's or that makes no sense.
    """
    given: Any = getattr(django_settings, "AGENT_EVENTS", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(
            f'AGENT_EVENTS is {given!r}, expected a dict such as {{"POLL_INTERVAL_S": 1.0}}.'
        )
    known = {field.name.upper(): field for field in fields(Settings)}
    unknown = sorted(str(key) for key in set(given) - set(known))
    if unknown:
        raise ImproperlyConfigured(
            f"AGENT_EVENTS has unknown keys {', '.join(unknown)}. Known: {', '.join(known)}."
        )
    for key, value in given.items():
        if expected := _expected_instead_of(value, known[key]):
            shown = type(value).__name__ if key in SECRET else repr(value)
            raise ImproperlyConfigured(f'AGENT_EVENTS["{key}"] is {shown}, expected {expected}.')
    made = {known[key].name: value for key, value in given.items()}
    if "cors_origins" in made:
        made["cors_origins"] = tuple(made["cors_origins"])
    return Settings(**made)


def _expected_instead_of(value: object, field: "Field[Any]") -> str:
    """What should stand there, in words; empty where the value is one."""
    if field.name == "mode":
        return "" if value in MODES else f"one of {', '.join(map(repr, MODES))}"
    if field.name == "listener_dsn":
        return "" if isinstance(value, str) else "a connection string, or an empty one"
    if field.name == "cors_origins":
        return "" if _are_origins(value) else 'a list of origins, such as "https://app.example"'
    if field.name == "metrics_token":
        return "" if isinstance(value, str) else "a secret text, or an empty one"
    if field.name in MAY_BE_EMPTY:
        return "" if isinstance(value, str) else "a text, or an empty one"
    if field.name == "broker_name":
        named = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value)
        return "" if named else "letters, digits, - and _, 64 at most"
    if field.type is str:
        return "" if isinstance(value, str) and value else "a name"
    least = "0 or more" if field.name in MAY_BE_ZERO else "more than 0"
    most = AT_MOST.get(field.name, math.inf)
    least += f", {most} at most" if field.name in AT_MOST else ""
    expected = f"{'a whole number' if field.type is int else 'a number'}, {least}"
    if field.type is bool:
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return expected
    if isinstance(value, float) and field.type is int:
        return expected
    enough = value > 0 or (value == 0 and field.name in MAY_BE_ZERO)
    return "" if enough and value <= most else expected


def _are_origins(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(one, str) and re.fullmatch(r"\*|https?://[^/\s]+", one) for one in value
    )


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "AGENT_EVENTS":
        get_settings.cache_clear()


setting_changed.connect(_forget)
