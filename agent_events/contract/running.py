"""The addresses that a site is run with: probes, metrics; and those of the contract itself."""

from typing import Any

from agent_events.contract.pieces import PUBLIC, answer, json_of, operation, refusals
from agent_events.contract.schemas import Schema, one_object, ref, text

TAG = "Running"
CONTRACT = "Contract"


def paths() -> dict[str, Any]:
    """Their part of `paths`."""
    return {
        "/healthz": {"get": _healthz()},
        "/readyz": {"get": _readyz()},
        "/metrics": {"get": _metrics()},
        "/api/agents/openapi.json": {"get": _document("openapi", "OpenAPI 3.1", "HTTP")},
        "/api/agents/asyncapi.json": {
            "get": _document("asyncapi", "AsyncAPI 3.0", "the messages of streams")
        },
        "/api/agents/docs": {
            "get": operation(
                "docs",
                CONTRACT,
                "The contract, to be read",
                "Both documents as a page. No script runs on it.",
                {
                    "200": answer("The page.", {"text/html": {"schema": text()}}),
                    **refusals("BadRequest"),
                },
                security=PUBLIC,
            )
        },
    }


def schemas() -> dict[str, Schema]:
    """Their part of `components.schemas`."""
    return {
        "Alive": one_object({"status": {"const": "alive"}}),
        "Readiness": one_object(
            {
                "status": {"enum": ["ready", "degraded", "unready"]},
                "data": {"enum": ["ok", "failing"]},
                "doorbell": {"enum": ["heard", "deaf", "unknown", "none"]},
                "problems": {
                    "type": "array",
                    "items": text(pattern="^[a-z_]+$"),
                    "description": "Codes.",
                },
            }
        ),
    }


def _healthz() -> dict[str, Any]:
    return operation(
        "healthz",
        TAG,
        "Does this process live?",
        "Touches nothing.",
        {"200": answer("It does.", json_of(ref("Alive"), example={"status": "alive"}))},
        security=PUBLIC,
    )


def _readyz() -> dict[str, Any]:
    ready = {"status": "ready", "data": "ok", "doorbell": "heard", "problems": []}
    failing = {
        "status": "unready",
        "data": "failing",
        "doorbell": "unknown",
        "problems": ["unreachable"],
    }
    return operation(
        "readyz",
        TAG,
        "Can this process deliver events?",
        "Answered within 2 s, whatever hangs.",
        {
            "200": answer("It can.", json_of(ref("Readiness"), example=ready)),
            "503": answer("It cannot.", json_of(ref("Readiness"), example=failing)),
        },
        security=PUBLIC,
    )


def _metrics() -> dict[str, Any]:
    return operation(
        "metrics",
        TAG,
        "What Prometheus scrapes",
        "For whoever bears `METRICS_TOKEN`, or has the right to operate. In Prometheus' text "
        "format, or OpenMetrics where `Accept` asks for it.",
        {
            "200": answer(
                "The metrics.",
                {
                    "text/plain": {"schema": text()},
                    "application/openmetrics-text": {"schema": text()},
                },
            ),
            **refusals("NotSignedIn", "Forbidden", "Unavailable"),
        },
        security=[{"bearer": []}, {"session": []}],
    )


def _document(name: str, standard: str, subject: str) -> dict[str, Any]:
    return operation(
        name,
        CONTRACT,
        f"{standard}, for {subject}",
        "As this server is set: limits are those in force.",
        {
            "200": answer("The document.", json_of({"type": "object"})),
            **refusals("BadRequest"),
        },
        security=PUBLIC,
    )
