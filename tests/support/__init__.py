"""What tests share besides fixtures."""

from tests.support.database import make_tenant, make_user, manage
from tests.support.server import Server, cookie_header, free_port, login
from tests.support.waiting import wait_until

__all__ = [
    "Server",
    "cookie_header",
    "free_port",
    "login",
    "make_tenant",
    "make_user",
    "manage",
    "wait_until",
]
