"""Whose page sent a request that bears a cookie: this site's, or another's.

A browser sends a site's cookies along with whatever a page of another site asks for (where
`SameSite` does not hinder it), and WebSockets know no other protection (RFC 6455, section 10.2).
So where a cookie says who asks, the page must be of this site, of one in CORS_ORIGINS (which `"*"`
names nobody of), or of Django's CSRF_TRUSTED_ORIGINS. Keys and tokens in a header need none of it:
no browser sends these by itself.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest

from agent_events.conf import get_settings
from agent_events.credentials import Credentials
from agent_events.errors import WrongOrigin

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check(scope: Mapping[str, Any], credentials: Credentials) -> None:
    """Raises WrongOrigin where a cookie says who asks, and no page of this site may have sent it.

    For WebSocket handshakes, and for requests that change something; of others (GET, HEAD) nothing
    is asked, since a page of another site cannot read their answers.
    """
    if not credentials.from_browser:
        return
    websocket = scope["type"] == "websocket"
    if not websocket and scope["method"] in SAFE_METHODS:
        return
    origin = header(scope, b"origin")
    if not origin and not websocket:
        if header(scope, b"sec-fetch-site") == "same-origin":
            return
        parts = urlsplit_or_nothing(header(scope, b"referer"))
        origin = f"{parts[0]}://{parts[1]}" if all(parts) else ""
    if not origin or not is_trusted(scope, origin):
        raise WrongOrigin(
            f"A cookie came with a request of {origin[:200] or 'an unnamed origin'}, which is not "
            "this site. A page elsewhere sends a token in place of a cookie; CORS_ORIGINS names "
            "sites that may use ours."
        )


def is_trusted(scope: Mapping[str, Any], origin: str) -> bool:
    """May pages of this origin act for whoever is signed in here?"""
    scheme, netloc = urlsplit_or_nothing(origin)
    if not scheme or not netloc:
        return False  # `null`: a sandboxed frame, a file, a redirect from elsewhere
    return (
        is_listed(origin)
        or _is_own(scope, scheme, netloc)
        or any(_matches(one, scheme, netloc) for one in django_settings.CSRF_TRUSTED_ORIGINS)
    )


def is_listed(origin: str) -> bool:
    """Is this origin in CORS_ORIGINS, by its name?"""
    wanted = _normal(origin)
    return any(_normal(one) == wanted for one in get_settings().cors_origins if one != "*")


def knows_host(scope: Mapping[str, Any]) -> bool:
    """Is the request for a host of ALLOWED_HOSTS?"""
    try:
        _Asked(scope).get_host()
    except DisallowedHost:
        return False
    return True


def header(scope: Mapping[str, Any], name: bytes) -> str:
    """A header's value, by its name in lower case; empty where there is none."""
    return next((v.decode("latin-1") for n, v in scope["headers"] if n.lower() == name), "")


def urlsplit_or_nothing(url: str) -> tuple[str, str]:
    """Scheme and host with its port (none where it is the usual), in lower case; two empty texts
    where the URL makes no sense."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    scheme, netloc = parts.scheme.lower(), parts.netloc.lower()
    return scheme, netloc.removesuffix(_DEFAULT_PORTS.get(scheme, "-"))


def _normal(origin: str) -> str:
    return "{}://{}".format(*urlsplit_or_nothing(origin))


def _is_own(scope: Mapping[str, Any], scheme: str, netloc: str) -> bool:
    asked = _Asked(scope)
    try:
        host = asked.get_host().lower()
    except DisallowedHost:
        return False
    # Where TLS ends in a proxy that does not say so, we see http and the page is https; the other
    # way round somebody on the way may have written the page.
    same_scheme = scheme == asked.scheme or (scheme, asked.scheme) == ("https", "http")
    return same_scheme and host.removesuffix(_DEFAULT_PORTS.get(scheme, "-")) == netloc


def _matches(trusted: str, scheme: str, netloc: str) -> bool:
    """As Django reads CSRF_TRUSTED_ORIGINS: `https://*.example.com` has all subdomains."""
    own_scheme, pattern = urlsplit_or_nothing(trusted)
    fits = netloc.endswith(pattern[1:]) if pattern.startswith("*.") else netloc == pattern
    return own_scheme == scheme and fits


class _Asked(HttpRequest):
    """As much of a request as Django needs to tell its host and scheme, proxy headers included."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        super().__init__()
        self._secure = scope.get("scheme") in ("https", "wss")
        server, port = scope.get("server") or ("unknown", 80)
        self.META = {"SERVER_NAME": str(server), "SERVER_PORT": str(port or 80)}
        for key, value in scope["headers"]:
            if b"_" in key:  # not what a proxy sets, but what it might be taken for
                continue
            name = f"HTTP_{key.decode('latin-1').upper().replace('-', '_')}"
            # As Django does: of two hosts none is believed.
            before = f"{self.META[name]}," if name in self.META else ""
            self.META[name] = before + value.decode("latin-1")

    def _get_scheme(self) -> str:
        return "https" if self._secure else "http"
