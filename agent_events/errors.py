"""Every error that the package raises on purpose, on one screen."""


class AgentEventsError(Exception):
    """The root of them all. The message says what happened, what was expected, what to do."""


class InvalidCursor(AgentEventsError, ValueError):
    """A cursor that no server of this kind has given out."""


class InvalidFilter(AgentEventsError, ValueError):
    """An `agent` or `type` filter that cannot match anything."""


class InvalidQuery(AgentEventsError, ValueError):
    """What was asked for besides: an order, a limit, whose events."""


class InvalidAge(AgentEventsError, ValueError):
    """How long events are kept, in a form that is not understood."""


class InvalidEvent(AgentEventsError, ValueError):
    """An event that the log does not take.

    `place` is its place in the list, from 0, and `field` the name of what is wrong with it, where
    these are known.
    """

    def __init__(self, message: str, *, place: int | None = None, field: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.field = field


class NotSignedIn(AgentEventsError):
    """The request bears no identity."""


class RightLacking(AgentEventsError):
    """The principal may not do this; the message names the right that it would take."""


class WrongOrigin(AgentEventsError):
    """A browser sent a cookie from a page of another site."""


class LimitReached(AgentEventsError):
    """Too many, too often; `retry_after_s` says when to come back. The message names the limit."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLarge(AgentEventsError):
    """More bytes or events than a request may bring; the message names the limit."""


class TooSlow(AgentEventsError):
    """The body of a request did not come in time."""


class NotJson(AgentEventsError, ValueError):
    """The body of a request is no JSON, or not what its type says."""


class UnsupportedMedia(AgentEventsError):
    """The body of a request is of a type that is not understood; the message lists the others."""


class KeyReused(InvalidEvent):
    """An idempotency key that was used for another event before."""


class TryAgain(AgentEventsError):
    """It could not be done now; `retry_after_s` says when to come back. The message says why."""

    def __init__(self, message: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownTenant(AgentEventsError):
    """No such tenant, or not one of this principal's: the two look the same on purpose.

    `place`: of the event that names it, in the list, from 0.
    """

    def __init__(self, message: str, *, place: int | None = None) -> None:
        super().__init__(message)
        self.place = place


class TenantNotNamed(AgentEventsError, ValueError):
    """The request names no tenant, and the principal has not exactly one."""


class WrongDatabase(AgentEventsError):
    """The database is not one that the bus can run on."""


class BrokerAway(AgentEventsError):
    """The broker does not answer, refuses, or is full. The message says which, and no secret."""


def in_a_line(error: BaseException) -> str:
    """What any error says, for a line of a log; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
