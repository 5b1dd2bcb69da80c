"""An event as it was posted, whatever its form was."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

Type = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*\Z")]
"""The type of an event."""


@dataclass(frozen=True, slots=True)
class PostedEvent:
    """What is known of it before it is known who may write it.

    `tenant_id`: None where it names none. `payload`: JSON that PostgreSQL takes, as it
    came. `key_field`: what a refusal of the key names.
    """

    tenant_id: str | None
    agent_id: str
    event_type: str
    payload: str
    key: str | None = None
    key_field: str = "eventKey"
