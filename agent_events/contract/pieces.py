"""Small parts that the paths of the OpenAPI document are made of: parameters, answers, refusals."""

from collections.abc import Sequence
from typing import Any

from agent_events.contract.schemas import TENANT, Schema, one_object, ref, text, whole

PROBLEM_TYPE = "application/problem+json"

EITHER_WAY: list[dict[str, list[str]]] = [{"bearer": []}, {"session": []}, {"tokenCookie": []}]
"""Where no ticket is taken."""
STREAMS = [*EITHER_WAY, {"ticket": []}]
PUBLIC: list[dict[str, list[str]]] = [{}]


def operation(
    name: str, tag: str, summary: str, description: str, responses: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """One method of an address. `name` is its operationId; `more`: parameters, requestBody."""
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        **more,
        "responses": responses,
    }


def query(name: str, schema: Schema, description: str, **more: Any) -> dict[str, Any]:
    """An optional parameter in the URL."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def header(name: str, schema: Schema, description: str) -> dict[str, Any]:
    """An optional header of a request."""
    return {"name": name, "in": "header", "description": description, "schema": schema}


def answer(
    description: str, content: dict[str, Any] | None = None, headers: Sequence[str] = ()
) -> Schema:
    """A response; `headers` are names of `components.headers`."""
    made: Schema = {"description": description}
    if headers:
        made["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    if content is not None:
        made["content"] = content
    return made


def json_of(schema: Schema, *, example: Any = None) -> dict[str, Any]:
    """The content of a JSON answer."""
    return {"application/json": {"schema": schema, **({"example": example} if example else {})}}


def refusals(*names: str) -> dict[str, Any]:
    """By status, references to these of `REFUSALS`."""
    return {
        REFUSALS[name][0]: {"$ref": f"#/components/responses/{name}"}
        for name in sorted(names, key=lambda one: REFUSALS[one][0])
    }


REFUSALS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "BadRequest": ("400", "The request is not understood: `detail` says what, and what to do.", ()),
    "NotSignedIn": (
        "401",
        "No identity, or one that is unknown, expired or revoked.",
        ("WWW-Authenticate", "Retry-After"),
    ),
    "Forbidden": (
        "403",
        "A right is lacking (`detail` names it), or a browser sent a cookie from another origin.",
        (),
    ),
    "NotFound": ("404", "No such thing, or it is not yours: the two look the same.", ()),
    "TooSlow": ("408", "The body did not come in time. Send it again.", ()),
    "TooLarge": ("413", "More than a request may bring: `detail` names the limit.", ()),
    "UnsupportedMediaType": ("415", "A Content-Type that is not taken here.", ()),
    "Unprocessable": (
        "422",
        "Understood, and not taken: `field` and `place` say what is at fault. Nothing is written.",
        (),
    ),
    "TooMany": ("429", "Too many, too often: `detail` names the limit.", ("Retry-After",)),
    "Unavailable": ("503", "The database cannot be asked now. Come again.", ("Retry-After",)),
}
"""Each refusal: its status, when it comes, the headers that it bears."""

_EXAMPLES = {
    "400": "limit is '0', expected a number from 1 to 1000.",
    "401": "No API key, token or session.",
    "403": "key:Zk3v9QpL lacks the right 'publish' (it has: subscribe).",
    "404": f"No such tenant, or it is not yours: {TENANT}.",
}


def refusal_responses() -> dict[str, Any]:
    """`components.responses`."""
    made = {}
    for name, (status, description, headers) in REFUSALS.items():
        content: dict[str, Any] = {"schema": ref("Problem")}
        if detail := _EXAMPLES.get(status):
            title = description.split(",")[0].split(":")[0].rstrip(".")
            content["example"] = {
                "type": "about:blank",
                "title": title,
                "status": int(status),
                "detail": detail,
            }
        made[name] = answer(description, {PROBLEM_TYPE: content}, headers)
    return made


def problem_schema() -> Schema:
    """`application/problem+json` (RFC 9457), as each refusal bears it."""
    return one_object(
        {
            "type": text("What kind of problem it is.", format="uri-reference"),
            "title": text("The status in words."),
            "status": whole("The HTTP status.", minimum=400, maximum=599),
            "detail": text("What happened, what was expected, what to do."),
            "field": text("What of an event is at fault."),
            "place": whole("Which event of the list, from 0.", minimum=0),
        },
        required=["type", "title", "status", "detail"],
        description="Why a request is refused (RFC 9457).",
    )


def headers() -> dict[str, Any]:
    """`components.headers`."""
    return {
        "Retry-After": {
            "description": "Seconds to wait before the next try.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "WWW-Authenticate": {
            "description": "`Bearer`: send a key or a token.",
            "schema": {"type": "string"},
        },
        "Agent-Events-Cursor": {
            "description": "The cursor right after this event.",
            "schema": ref("Cursor"),
        },
        "Content-Disposition": {
            "description": "`attachment`, and a name for the file.",
            "schema": {"type": "string"},
        },
        "Link": {
            "description": '`rel="next"` and `rel="prev"`: the addresses of the pages beside this '
            "one (RFC 8288).",
            "schema": {"type": "string"},
        },
    }
