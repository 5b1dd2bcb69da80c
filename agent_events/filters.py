"""Which events a subscriber wants to see: one predicate, for live events and the log alike."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from agent_events import conditions
from agent_events.errors import InvalidFilter, RightLacking
from agent_events.wire import Event

MOST_PATTERNS = 100  # of a kind; a longer list is a mistake, and each is tried on each event
PATTERN_CHARS = 201  # the longest type, and a `*`
MOST_TEXTS = 20  # and as many conditions: each is looked for in each event
TEXT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Filter:
    """`agents` and `types`: OR within each, AND between them; empty means any.

    Each entry is exact, or a prefix where it ends in `*`. `not_agents` and `not_types`: none of
    these. `texts`: each occurs in the JSON text of the event's type or of its payload, whatever the
    case of ASCII letters. `where`: each condition holds for the payload (docs/filters.md). A filter
    changes what is shown, never the position. The log is read by the SQL functions
    `agent_events_matches` and `agent_events_contains`, which say the same as `names` and `content`;
    tests compare them.
    """

    agents: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    not_agents: tuple[str, ...] = ()
    not_types: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        agents: Iterable[str] = (),
        types: Iterable[str] = (),
        not_agents: Iterable[str] = (),
        not_types: Iterable[str] = (),
        texts: Iterable[str] = (),
        where: Iterable[str] = (),
    ) -> "Filter":
        """A filter from what a client sent; empty entries are left out.

        Raises InvalidFilter for too many entries, text that PostgreSQL cannot hold, or a `where`
        that is no condition.
        """
        made = cls(
            tuple(sorted({a.strip().lower() for a in agents} - {""})),
            tuple(sorted({t.strip() for t in types} - {""})),
            tuple(sorted({a.strip().lower() for a in not_agents} - {""})),
            tuple(sorted({t.strip() for t in not_types} - {""})),
            tuple(sorted({t.strip() for t in texts} - {""})),
            tuple(sorted({w.strip() for w in where} - {""})),
        )
        for name, words, chars in (
            ("text", made.texts, TEXT_CHARS),
            ("where", made.where, conditions.CONDITION_CHARS),
        ):
            if len(words) > MOST_TEXTS:
                raise InvalidFilter(f"{len(words)} {name} filters; expected {MOST_TEXTS} at most.")
            if not all(_storable(word) and len(word) <= chars for word in words):
                raise InvalidFilter(
                    f"A {name} filter is over {chars} characters long, or contains U+0000 or half "
                    "of a surrogate pair."
                )
        for condition in made.where:
            conditions.parse(condition)
        for name, patterns in (
            ("agent", made.agents),
            ("type", made.types),
            ("not_agent", made.not_agents),
            ("not_type", made.not_types),
        ):
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
        return bool(
            self.agents
            or self.types
            or self.not_agents
            or self.not_types
            or self.texts
            or self.where
        )

    @property
    def jsonpath(self) -> str | None:
        """All of `where` as one predicate for PostgreSQL; None where it asks nothing."""
        return conditions.to_jsonpath(map(conditions.parse, self.where)) if self.where else None

    def matches(self, event: Event) -> bool:
        """Is this event wanted?"""
        return self.names(event.agent_id, event.type) and self.content(event)

    def names(self, agent_id: str, event_type: str) -> bool:
        """Is an event of this agent and type wanted, as far as these two say?"""
        return (
            _any(self.agents, agent_id)
            and _any(self.types, event_type)
            and not (self.not_agents and _any(self.not_agents, agent_id))
            and not (self.not_types and _any(self.not_types, event_type))
        )

    def content(self, event: Event) -> bool:
        """Has the event all of `texts`, and is its payload as `where` says?"""
        if not (self.texts or self.where):
            return True
        if self.texts:
            # No text has a raw line break in it: none is found across the two.
            kind = json.dumps(event.type, ensure_ascii=False)
            looked_in = _folded(f"{kind}\n{event.payload_text}")
            if not all(_needle(text) in looked_in for text in self.texts):
                return False
        if not self.where:
            return True
        wanted = [conditions.parse(text) for text in self.where]
        text = event.payload_text
        if not all(condition.may_hold(text) for condition in wanted):
            return False
        value = conditions.read(text)
        return all(condition.holds(value) for condition in wanted)

    def within(self, limit: "Filter") -> "Filter":
        """What of it `limit` wants too. Raises RightLacking where that is nothing at all."""
        return replace(
            self,
            agents=_both("agent", self.agents, limit.agents),
            types=_both("type", self.types, limit.types),
        )

    def covers(self, other: "Filter") -> bool:
        """Does it want all that `other` wants? By agents and types alone, as limits are."""
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


def _folded(text: str) -> bytes:
    """In lower case, of ASCII alone: what PostgreSQL's `lower` does under the collation "C"."""
    return text.encode().lower()


@lru_cache(maxsize=1_000)
def _needle(text: str) -> bytes:
    """What to look for in JSON, where quotes and the like are escaped."""
    return _folded(json.dumps(text, ensure_ascii=False)[1:-1])


def _storable(text: str) -> bool:
    """Can PostgreSQL's text hold it?"""
    return not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text)


def _any(patterns: tuple[str, ...], value: str) -> bool:
    return not patterns or any(
        value == pattern or (pattern[-1] == "*" and value.startswith(pattern[:-1]))
        for pattern in patterns
    )
