"""Which events a subscriber wants to see: one predicate, for live events and the log alike."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent_events.errors import InvalidFilter, RightLacking

MOST_PATTERNS = 100  # of a kind; a longer list is a mistake, and each is tried on each event
PATTERN_CHARS = 201  # the longest type, and a `*`


@dataclass(frozen=True, slots=True)
class Filter:
    """`agents` and `types`: OR within each, AND between them; empty means any.

    Each entry is exact, or a prefix where it ends in `*`. A filter changes what is shown, never
    the position. The SQL function `agent_events_matches` says the same; tests compare them.
    """

    agents: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @classmethod
    def of(cls, agents: Iterable[str] = (), types: Iterable[str] = ()) -> "Filter":
        """A filter from what a client sent; empty entries are left out.

        Raises InvalidFilter for too many entries, or text that PostgreSQL cannot hold.
        """
        made = cls(
            tuple(sorted({a.strip().lower() for a in agents} - {""})),
            tuple(sorted({t.strip() for t in types} - {""})),
        )
        for name, patterns in (("agent", made.agents), ("type", made.types)):
            if len(patterns) > MOST_PATTERNS:
                raise InvalidFilter(
                    f"{len(patterns)} {name} filters; expected {MOST_PATTERNS} at most. "
                    "Use a prefix that ends in *."
                )
            if not all(
                _storable(pattern) and len(pattern) <= PATTERN_CHARS for pattern in patterns
            ):
                raise InvalidFilter(
                    f"{'An' if name == 'agent' else 'A'} {name} filter is over 200 characters "
                    "long, or contains U+0000 or half of a surrogate pair."
                )
        return made

    def __bool__(self) -> bool:
        return bool(self.agents or self.types)

    def matches(self, agent_id: str, event_type: str) -> bool:
        """Is an event of this agent and type wanted?"""
        return _any(self.agents, agent_id) and _any(self.types, event_type)

    def within(self, limit: "Filter") -> "Filter":
        """What of it `limit` wants too. Raises RightLacking where that is nothing at all."""
        return Filter(
            _both("agent", self.agents, limit.agents), _both("type", self.types, limit.types)
        )

    def covers(self, other: "Filter") -> bool:
        """Does it want all that `other` wants?"""
        return _all_within(self.agents, other.agents) and _all_within(self.types, other.types)


def _all_within(limit: tuple[str, ...], asked: tuple[str, ...]) -> bool:
    if not limit:
        return True
    return bool(asked) and all(any(_covers(one, pattern) for one in limit) for pattern in asked)


def _both(name: str, asked: tuple[str, ...], limit: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of what matches one of each; of two that overlap, one is within the other."""
    if not asked or not limit:
        return asked or limit
    both = {one for one in asked for other in limit if _covers(other, one)}
    both |= {other for one in asked for other in limit if _covers(one, other)}
    if not both:
        raise RightLacking(f"Not yours to see. The {name} may be: {', '.join(limit)}.")
    return tuple(sorted(both))


def _covers(pattern: str, other: str) -> bool:
    """Does `pattern` match all that `other` matches?"""
    # (Without its own `*`, which is none of its letters: `a**` does not match all that `a*` does.)
    return pattern == other or (
        pattern[-1] == "*" and other.removesuffix("*").startswith(pattern[:-1])
    )


def _storable(text: str) -> bool:
    """Can PostgreSQL's text hold it?"""
    return not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text)


def _any(patterns: tuple[str, ...], value: str) -> bool:
    return not patterns or any(
        value == pattern or (pattern[-1] == "*" and value.startswith(pattern[:-1]))
        for pattern in patterns
    )
