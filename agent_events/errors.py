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
    """An event that the log does not take."""


class NotSignedIn(AgentEventsError):
    """The request bears no identity."""


class UnknownTenant(AgentEventsError):
    """No such tenant, or not one of this principal's: the two look the same on purpose."""


class TenantNotNamed(AgentEventsError, ValueError):
    """The request names no tenant, and the principal has not exactly one."""


class WrongDatabase(AgentEventsError):
    """The database is not one that the bus can run on."""
