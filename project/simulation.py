"""Believable runs of AI agents, as events, made up from a seed.

Pure: no clock, no database, no randomness but that of the `random.Random` handed in. The same seed
tells the same story. Only the order of events is made here; when each is published is the
caller's business (`manage.py simulate_agents`).

An agent works on one run after the other: a run has turns, a turn may call tools, each call has its
result, sometimes a person is needed and answers before the run goes on, and every run ends.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Ids are derived from names below this one, so that a rerun shows the same tenants and agents.
NAMESPACE = uuid.UUID("6f1d5f0e-3f0a-5d0a-9d5c-6a1c1f0d2b7e")

TENANT_NAMES = (
    "Harbour Support",
    "Northwind Claims",
    "Juniper Travel",
    "Atlas Freight",
    "Meadow Health",
    "Copper Bank",
    "Lumen Energy",
    "Quarry Legal",
)
AGENT_NAMES = ("triage", "researcher", "refunds", "scheduler", "writer", "reviewer", "billing")
MODELS = ("gpt-5-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "mistral-large")

TOOLS: dict[str, tuple[dict[str, Any], ...]] = {
    "search_orders": ({"customer": "C-2041", "since": "2026-01-01"}, {"order": "A-77310"}),
    "knowledge_base": ({"query": "return window for opened items"}, {"query": "VAT on exports"}),
    "send_email": ({"template": "refund_approved"}, {"template": "delay_notice"}),
    "calendar.find_slot": ({"days": 3, "duration_min": 30}, {"days": 10, "duration_min": 60}),
    "sql.query": ({"statement": "SELECT status, count(*) FROM tickets GROUP BY 1"},),
    "issue_refund": ({"order": "A-77310", "amount": "48.90", "currency": "EUR"},),
}
TASKS = (
    "Customer asks where parcel A-77310 is",
    "Refund request over the usual limit",
    "Summarise this week's open claims",
    "Find a slot for the quarterly review",
    "Answer a question about VAT on exports",
    "Check an invoice that was charged twice",
)
MESSAGES = (
    "Your parcel left our warehouse this morning and should arrive tomorrow.",
    "I found two orders with that number. Which one do you mean?",
    "The refund is on its way: it takes up to three working days.",
    "Ich habe den Termin für Sie auf Donnerstag, 10 Uhr, verschoben.",
    "Voilà, la facture corrigée est jointe. 🙂",
)
QUESTIONS = (
    "The refund is above 100 EUR. May I issue it?",
    "Two customers share this address. Which account is meant?",
    "The contract does not say. Shall I use the standard terms?",
)
TOOL_ERRORS = (
    ("TimeoutError", "no answer within 10 s"),
    ("RateLimited", "429 from the upstream service, retry after 2 s"),
    ("ValidationError", "order number has a wrong check digit"),
)
RUN_ERRORS = (
    ("ModelUnavailable", "the model did not answer three times running"),
    ("BudgetExceeded", "the run used more tokens than it may"),
)
GUARDRAILS = ("personal_data", "prompt_injection", "tone")


@dataclass(frozen=True)
class SimulatedEvent:
    """One event to publish, without its tenant."""

    agent_id: uuid.UUID
    event_type: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Agent:
    """A simulated agent. Its id depends on the seed, its tenant and its place alone."""

    id: uuid.UUID
    name: str


def tenant_name(index: int) -> str:
    """The name of the tenant with this number: a new one for every number."""
    round_, place = divmod(index, len(TENANT_NAMES))
    return TENANT_NAMES[place] + (f" {round_ + 1}" if round_ else "")


def tenant_id(name: str) -> uuid.UUID:
    """The id of a simulated tenant: the same everywhere, so that a command can be written down."""
    return uuid.uuid5(NAMESPACE, name)


def tenant_agents(tenant: str, count: int, seed: int) -> list[Agent]:
    """The agents of a tenant."""
    agents = []
    for index in range(count):
        round_, place = divmod(index, len(AGENT_NAMES))
        name = AGENT_NAMES[place] + (f"-{round_ + 1}" if round_ else "")
        agents.append(Agent(uuid.uuid5(NAMESPACE, f"{seed}/{tenant}/{name}"), name))
    return agents


def tenant_story(
    tenant: str, agents: list[Agent], seed: int, start: int = 0
) -> Iterator[SimulatedEvent]:
    """All that happens at a tenant, without an end: the runs of its agents, interleaved.

    Args:
        start: number of the first run. Another one tells a different part of the story, with run
            ids of its own: a simulator that was restarted does not repeat the runs of yesterday.
    """
    rng = random.Random(f"{seed}/{tenant}/{start}")
    run_number = start
    busy: dict[uuid.UUID, Iterator[SimulatedEvent]] = {}
    resting: dict[uuid.UUID, int] = {}  # and for how many events of the others
    while True:
        resting = {one: left - 1 for one, left in resting.items() if left > 1}
        agent = rng.choice([one for one in agents if one.id not in resting] or agents)
        if agent.id not in busy:
            run_id = uuid.uuid5(NAMESPACE, f"{seed}/{tenant}/run/{run_number}")
            run_number += 1
            busy[agent.id] = _Run(agent, agents, run_id, rng).events()
        event = next(busy[agent.id], None)
        if event is None:
            del busy[agent.id]
        else:
            resting[agent.id] = _rest(event.event_type, rng)
            yield event


def _rest(event_type: str, rng: random.Random) -> int:
    """How many events of others come before this agent goes on: people take their time."""
    if event_type == "needs_human":
        return rng.randint(10, 60)
    if event_type == "tool.started" and rng.random() < 0.02:
        return rng.randint(100, 300)  # something hangs
    if event_type in ("run.finished", "run.failed"):
        return rng.randint(0, 20)
    return 0


@dataclass
class _Run:
    """One run of one agent, told event by event."""

    agent: Agent
    colleagues: list[Agent]
    run_id: uuid.UUID
    rng: random.Random
    step: int = 0
    calls: int = 0
    tokens: int = 0
    elapsed_ms: int = 0
    thread_id: str = field(init=False)
    model: str = field(init=False)

    def __post_init__(self) -> None:
        self.thread_id = f"thread-{self.rng.randrange(16**6):06x}"
        self.model = self.rng.choice(MODELS)

    def events(self) -> Iterator[SimulatedEvent]:
        """The whole run, from `run.started` to its end."""
        rng = self.rng
        yield self.event("run.started", task=rng.choice(TASKS), model=self.model)
        for _ in range(rng.randint(1, 4)):
            self.step += 1
            yield from self.turn()
            if rng.random() < 0.12:
                yield from self.ask_a_person()
            if rng.random() < 0.05:
                yield self.event("guardrail", name=rng.choice(GUARDRAILS), action="redacted")
        if rng.random() < 0.06:
            kind, message = rng.choice(RUN_ERRORS)
            error = {"type": kind, "message": message}
            yield self.event("error", error=error)
            yield self.event("run.failed", error=error, duration_ms=self.elapsed_ms)
            return
        yield self.event("message", role="assistant", text=rng.choice(MESSAGES))
        others = [one for one in self.colleagues if one.id != self.agent.id]
        if others and rng.random() < 0.15:
            to = rng.choice(others)
            yield self.event("handoff", from_agent=self.agent.name, to_agent=to.name)
        yield self.event("run.finished", duration_ms=self.elapsed_ms, usage={"total": self.tokens})

    def turn(self) -> Iterator[SimulatedEvent]:
        """One turn of the model, with the tools that it calls."""
        rng = self.rng
        yield self.event("turn.started", model=self.model)
        for _ in range(rng.choice((0, 1, 1, 2))):
            yield from self.tool_call()
        input_tokens, output_tokens = rng.randint(180, 4200), rng.randint(20, 900)
        duration_ms = self.takes(rng.randint(350, 6000))
        self.tokens += input_tokens + output_tokens
        if rng.random() < 0.2:  # the short form, as other producers write it
            yield self.event("turn_complete", tokens=output_tokens, latency=duration_ms)
            return
        yield self.event(
            "turn.finished",
            model=self.model,
            usage={
                "input": input_tokens,
                "output": output_tokens,
                "total": input_tokens + output_tokens,
            },
            cost_usd=round((input_tokens * 3 + output_tokens * 15) / 1e6, 6),
            duration_ms=duration_ms,
        )

    def tool_call(self) -> Iterator[SimulatedEvent]:
        """A call and its result, which may be a failure."""
        rng = self.rng
        self.calls += 1
        call = {
            "tool_call_id": f"call-{self.run_id.hex[:8]}-{self.calls}",
            "tool": rng.choice(tuple(TOOLS)),
        }
        yield self.event("tool.started", **call, arguments=rng.choice(TOOLS[call["tool"]]))
        duration_ms = self.takes(rng.randint(15, 2500))
        if rng.random() < 0.1:
            kind, message = rng.choice(TOOL_ERRORS)
            error = {"type": kind, "message": message}
            yield self.event("tool.failed", **call, duration_ms=duration_ms, error=error)
        else:
            yield self.event(
                "tool.finished", **call, duration_ms=duration_ms, rows=rng.randint(0, 40)
            )

    def ask_a_person(self) -> Iterator[SimulatedEvent]:
        """The run waits for a person, who answers."""
        rng = self.rng
        yield self.event("needs_human", question=rng.choice(QUESTIONS), options=["yes", "no"])
        yield self.event(
            "human.answered",
            answer=rng.choice(("yes", "no")),
            answered_by=rng.choice(("mara", "jonas", "the shift lead")),
            duration_ms=self.takes(rng.randint(4000, 90_000)),
        )

    def takes(self, duration_ms: int) -> int:
        """Let this much of the run's own time pass."""
        self.elapsed_ms += duration_ms
        return duration_ms

    def event(self, event_type: str, **details: Any) -> SimulatedEvent:
        """An event of this run."""
        payload = {
            "run_id": str(self.run_id),
            "thread_id": self.thread_id,
            "agent": self.agent.name,
        }
        if self.step:
            details = {"step": self.step, **details}
        return SimulatedEvent(self.agent.id, event_type, {**payload, **details})
