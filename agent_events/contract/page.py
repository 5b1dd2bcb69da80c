"""What the page about the contract shows, out of the two documents: plain words for a template."""

import json
import re
from typing import Any, NamedTuple

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

Document = dict[str, Any]


class Row(NamedTuple):
    """A line of a table: a parameter, a field, an answer."""

    name: str
    kind: str
    note: SafeString
    needed: bool = False
    link: str = ""  # the id of the schema's own section


class Table(NamedTuple):
    """Lines under a heading."""

    title: str
    rows: list[Row]


class Sample(NamedTuple):
    """An example, under a heading."""

    title: str
    text: str


class Entry(NamedTuple):
    """A section of the page: an address, a message, a schema. `badge`: its method, if any."""

    id: str
    badge: str
    name: str
    summary: SafeString
    description: SafeString
    tables: list[Table]
    samples: list[Sample]


class Part(NamedTuple):
    """Entries that belong together."""

    id: str
    name: str
    note: SafeString
    entries: list[Entry]


def context(openapi: Document, asyncapi: Document) -> dict[str, Any]:
    """For the template `agent_events/contract.html`."""
    return {
        "http_note": _marked(openapi["info"]["description"]),
        "http": [*_by_tag(openapi), _schemas(openapi, asyncapi)],
        "credentials": [
            Row(name, _how(scheme), _marked(scheme.get("description", "")))
            for name, scheme in openapi["components"]["securitySchemes"].items()
        ],
        "streams_note": _marked(asyncapi["info"]["description"]),
        "streams": [_operation_part(asyncapi, name) for name in asyncapi["operations"]],
        "close_codes": [
            code
            for channel in asyncapi["channels"].values()
            for code in channel.get("x-close-codes", ())
        ],
    }


def _by_tag(openapi: Document) -> list[Part]:
    return [
        Part(
            f"tag-{tag['name'].lower()}",
            tag["name"],
            _marked(tag["description"]),
            [
                _address(openapi, path, method, operation)
                for path, methods in openapi["paths"].items()
                for method, operation in methods.items()
                if operation["tags"] == [tag["name"]]
            ],
        )
        for tag in openapi["tags"]
    ]


def _address(openapi: Document, path: str, method: str, operation: Document) -> Entry:
    tables = []
    if parameters := operation.get("parameters"):
        rows = [
            _row(one["name"], one["schema"], one.get("required", False), one["description"])
            for one in parameters
        ]
        tables.append(Table("Parameters", rows))
    body = operation.get("requestBody", {})
    samples = [
        sample for media, one in body.get("content", {}).items() for sample in _samples(media, one)
    ]
    if body:
        tables.append(
            Table("Body", [_row(media, one["schema"]) for media, one in body["content"].items()])
        )
    answers = []
    for status, answer in operation["responses"].items():
        answer = _resolved(openapi, answer)
        content = answer.get("content", {})
        shown = ", ".join([*content, *answer.get("headers", {})])
        answers.append(Row(status, shown, _marked(answer["description"])))
        if status.startswith("2"):
            for media, one in content.items():
                samples += _samples(f"{status} {media}", one)
    tables.append(Table("Answers", answers))
    return Entry(
        operation["operationId"],
        method.upper(),
        openapi["servers"][0]["url"].rstrip("/") + path,
        _marked(operation["summary"]),
        _marked(operation["description"]),
        tables,
        samples,
    )


def _schemas(openapi: Document, asyncapi: Document) -> Part:
    schemas = {**openapi["components"]["schemas"], **asyncapi["components"]["schemas"]}
    entries = [
        Entry(
            f"schema-{name}",
            "",
            name,
            _marked(schema.get("description", "")),
            _marked(""),
            _fields(schema),
            [Sample("Example", _json(one)) for one in schema.get("examples", ())],
        )
        for name, schema in schemas.items()
    ]
    return Part("schemas", "Schemas", _marked("What bodies and answers are made of."), entries)


def _operation_part(asyncapi: Document, name: str) -> Part:
    operation = asyncapi["operations"][name]
    channel = _resolved(asyncapi, operation["channel"])
    entries = []
    for message in operation["messages"]:
        key = message["$ref"].rpartition("/")[2]
        one = asyncapi["components"]["messages"][key]
        entries.append(
            Entry(
                f"{name}-{key}",
                "",
                one["title"],
                _marked(one["summary"]),
                _marked(""),
                _fields(_resolved(asyncapi, one["payload"]), without="type"),
                [Sample("Example", _json(example["payload"])) for example in one["examples"]],
            )
        )
    words = f"`{channel['address']}`. {channel['description']}"
    return Part(
        name, f"{channel['title']}: {operation['summary'].lower()}", _marked(words), entries
    )


def _fields(schema: Document, without: str = "") -> list[Table]:
    rows = [
        _row(name, one, name in schema.get("required", ()))
        for name, one in schema.get("properties", {}).items()
        if name != without
    ]
    if not rows and "properties" not in schema:
        rows = [_row("", schema)]
    return [Table("Fields" if "properties" in schema else "Form", rows)] if rows else []


def _row(name: str, schema: Document, needed: bool = False, note: str = "") -> Row:
    target = next((one for one in _references(schema)), "")
    return Row(
        name,
        _kind(schema),
        _marked(note or ("" if not name else schema.get("description", ""))),
        needed,
        f"schema-{target}" if target else "",
    )


def _references(schema: Document) -> list[str]:
    inner = [schema, schema.get("items", {}), *schema.get("anyOf", ())]
    return [one["$ref"].rpartition("/")[2] for one in inner if "$ref" in one]


def _kind(schema: Document) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(one) for one in schema["enum"])
    if "anyOf" in schema and all("type" in one or "$ref" in one for one in schema["anyOf"]):
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}{_range(schema, 'minItems', 'maxItems')}"
    word = schema.get("format") or {"integer": "whole number"}.get(
        schema.get("type", ""), schema.get("type", "any JSON")
    )
    least, most = (
        ("minLength", "maxLength") if schema.get("type") == "string" else ("minimum", "maximum")
    )
    return f"{word}{_range(schema, least, most)}"


def _range(schema: Document, least: str, most: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if high is not None:
        return f", {low or 0:,} to {high:,}" if high < 2**53 else f", {low:,} or more"
    return f", {low:,} or more" if low is not None else ""


def _how(scheme: Document) -> str:
    if scheme["type"] == "http":
        return "Authorization: Bearer ..."
    return f"{scheme['in']} {scheme['name']}"


def _samples(title: str, media: Document) -> list[Sample]:
    named = {name: one["value"] for name, one in media.get("examples", {}).items()}
    if "example" in media:
        named[""] = media["example"]
    return [
        Sample(f"{title}{f', {name}' if name else ''}", one if isinstance(one, str) else _json(one))
        for name, one in named.items()
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _resolved(document: Document, part: Document) -> Document:
    if "$ref" not in part:
        return part
    found = document
    for step in part["$ref"].removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/")]
    return found


def _marked(words: str) -> SafeString:
    """Words with what is between backticks as code."""
    return mark_safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words)))  # noqa: S308  # escaped
