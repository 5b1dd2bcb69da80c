"""Addresses of brokers: their servers, and what may be said of them: never who signs in. Pure."""

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEMES = {
    "nats": "nats",
    "tls": "nats",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
}
"""What an address begins with, and the extra that it takes."""
SOCKET_FILE = "unix"
NO_ADDRESS = (
    "it is no address of a broker: expected nats://user:password@host:4222 or "
    "redis://user:password@host:6379/0, tls:// or rediss:// with TLS; in a user or password other "
    "characters than letters and digits are percent-encoded"
)


def servers_of(url: str) -> list[SplitResult]:
    """The servers that BROKER_URL names: several of a NATS cluster, one of Redis.

    Where only the first one has a scheme, the others have the same. Raises ValueError where it is
    no address; its words repeat nothing of it.
    """
    texts = [one.strip() for one in url.split(",")]
    scheme = texts[0].partition("://")[0]
    try:
        servers = [urlsplit(one if "://" in one else f"{scheme}://{one}") for one in texts]
        right = scheme != texts[0] and all(_is_server(one) for one in servers)
    except ValueError:
        right = False
    extras = {SCHEMES[one.scheme] for one in servers} if right else set()
    if extras != {"nats"} and not (extras and len(servers) == 1):
        # (Not the words of whatever failed: they may hold a piece of a password.)
        raise ValueError(NO_ADDRESS)
    return servers


def _is_server(one: SplitResult) -> bool:
    if one.scheme == SOCKET_FILE:
        return bool(one.path)
    if SCHEMES.get(one.scheme) == "redis" and one.path not in ("", "/"):
        # (redis-py would take any other for database 0.)
        return bool(one.hostname) and one.port != 0 and one.path[1:].isdecimal()
    return one.scheme in SCHEMES and bool(one.hostname) and one.port != 0


def extra_of(url: str) -> str:
    """The extra that BROKER_URL takes: `nats` or `redis`. Raises ValueError: `servers_of`."""
    return SCHEMES[servers_of(url)[0].scheme]


def host_of(url: str) -> str:
    """Where the servers are that an address of a broker names, without user and password."""
    parts = _parts(url)
    return ", ".join([one.netloc.rpartition("@")[2] or one.path for one in parts])


def without_secrets(words: str, url: str) -> str:
    """A library's words without the address that they may repeat, and what is secret in it."""
    parts = _parts(url)
    if not parts:
        return "BROKER_URL is no address; in a password [ and the like are percent-encoded"
    secrets = set()
    for one in parts:
        who = one.netloc.rpartition("@")[0]
        # A user without a password is a token.
        secrets |= {who, who.partition(":")[2] or who}
        secrets |= {value for _, value in parse_qsl(one.query)}
    secrets |= {unquote(secret) for secret in secrets}
    words = words.replace(url, "the address")
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        words = words.replace(secret, "***")
    return words


def _parts(url: str) -> list[SplitResult]:
    """The servers of an address; none where it is too wrong to be taken apart."""
    try:
        parts = [urlsplit(one if "//" in one else f"//{one}") for one in url.split(",")]
        # What looks like host and port may be a user and how a password begins, which holds a raw
        # comma, #, / or ?: its port is no number, or the @ comes too late.
        [one.port for one in parts]
    except ValueError:
        return []
    late = [one for one in parts if "@" in one.path + one.query + one.fragment]
    return parts if all("@" in one.netloc for one in late) else []
