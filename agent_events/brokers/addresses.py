"""What may be said of a broker's address: where it leads, never who signs in. Pure."""

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit


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
