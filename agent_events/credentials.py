"""What a request presents to say who it is: a key or token, a ticket, a session. Reading only.

Secrets come in the `Authorization` header, in a cookie that scripts cannot read, as a WebSocket's
subprotocol or its first frame; never in a URL, but for a ticket, which works once (RFC 9700,
section 4.3.2, says why). The first of these that is there counts, and no other, right or wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.http.cookie import parse_cookie

from agent_events import sessions
from agent_events.conf import DEFAULT_RESOLVER, get_settings

PROTOCOL = "agent-events"
"""The WebSocket subprotocol that the server answers with, where the client offers it."""
BEARER_PROTOCOL = "bearer."
"""A client that cannot send headers offers `bearer.<key or token>` beside it."""
TOKEN_COOKIE = "agent_events_token"  # noqa: S105  # its name
"""A stream token may come in a cookie of this name; set it HttpOnly, Secure, SameSite."""


class Via(StrEnum):
    """Where a secret came from."""

    HEADER = "header"
    SUBPROTOCOL = "subprotocol"
    FRAME = "frame"
    TICKET = "ticket"
    COOKIE = "cookie"
    SESSION = "session"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was presented. Equal ones are of the same holder, so that an answer may be shared.

    `secret`: a key, a token, a ticket or a session's key. `headers`: of the request, by their names
    in lower case, for a PRINCIPAL_RESOLVER of the application's own; else empty. `user`: whom
    Django's middleware found, at a Django view.
    """

    via: Via
    secret: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user: Any = field(default=None, repr=False)

    @property
    def from_browser(self) -> bool:
        """May a browser have sent it by itself, for a page of another site?

        A resolver of the application's own sees all headers, and may go by any cookie, by HTTP
        Basic, or by what a proxy made of these. A bearer is added by no browser.
        """
        if self.via in (Via.COOKIE, Via.SESSION):
            return True
        if not self.headers or self.header("authorization").lower().startswith("bearer "):
            return False
        return bool(self.header("cookie") or self.header("authorization"))

    def header(self, name: str) -> str:
        """The value of a header, by its name in lower case; empty where there is none."""
        return dict(self.headers).get(name, "")

    def with_token(self, token: str) -> "Credentials":
        """The same request with what an `auth` frame brings."""
        return Credentials(Via.FRAME, token, self.headers)


def of_scope(scope: Mapping[str, Any]) -> Credentials:
    """The credentials of an ASGI connection."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        between = "; " if name == "cookie" else ","  # (HTTP/2 may send each cookie by itself)
        headers[name] = f"{headers[name]}{between}{value}" if name in headers else value
    query = scope.get("query_string", b"") if _takes_tickets(scope) else b""
    via, secret = _found(
        headers, query.decode("utf-8", "replace"), ",".join(scope.get("subprotocols", ()))
    )
    return Credentials(via, secret, _kept(headers))


def of_request(request: HttpRequest) -> Credentials:
    """The credentials of a request to a Django view."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    via, secret = _found(headers)
    user = user_of(request) if via in (Via.SESSION, Via.NOTHING) else None
    return Credentials(via, secret, _kept(headers), user)


def user_of(request: HttpRequest) -> Any:
    """Whom Django's middleware found; None where there is none, or the cookie is no session's."""
    cookie = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
    # (It looks only when it is asked, and the store may choke on what is no key.)
    return getattr(request, "user", None) if not cookie or sessions.is_key(cookie) else None


def _takes_tickets(scope: Mapping[str, Any]) -> bool:
    """Streams alone do: everything else can send a header."""
    return str(scope["path"]).endswith("/stream")


def _found(headers: Mapping[str, str], query: str = "", protocols: str = "") -> tuple[Via, str]:
    if given := headers.get("authorization", "").strip():
        scheme, _, secret = given.partition(" ")
        # Another scheme is none of ours: nobody is found by it, and nothing else is tried.
        return Via.HEADER, secret.strip() if scheme.lower() == "bearer" else ""
    for protocol in protocols.split(","):
        if protocol.strip().startswith(BEARER_PROTOCOL):
            return Via.SUBPROTOCOL, protocol.strip().removeprefix(BEARER_PROTOCOL)
    if tickets := parse_qs(query).get("ticket"):
        return Via.TICKET, tickets[-1]
    cookies = parse_cookie(headers.get("cookie", ""))
    if token := cookies.get(TOKEN_COOKIE):
        return Via.COOKIE, token
    if session := cookies.get(django_settings.SESSION_COOKIE_NAME):
        return Via.SESSION, session
    return Via.NOTHING, ""


def _kept(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if get_settings().principal_resolver == DEFAULT_RESOLVER:
        return ()
    return tuple(headers.items())
