"""The example project's settings, as production has them, and what a benchmark asks for.

BENCHMARKS_AGENT_EVENTS  JSON: keys of AGENT_EVENTS
"""

import json
import os

from project.settings import *  # noqa: F403
from project.settings import AGENT_EVENTS

AGENT_EVENTS = {
    **AGENT_EVENTS,
    "STREAMS_PER_PRINCIPAL": 1_000_000,  # all clients of a row are the same user
    **json.loads(os.environ.get("BENCHMARKS_AGENT_EVENTS", "{}")),
}
