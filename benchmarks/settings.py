"""The example project's settings, as production has them, and what a benchmark asks for.

BENCHMARKS_AGENT_EVENTS  JSON: keys of AGENT_EVENTS
"""

import json
import os

from project.settings import *  # noqa: F403
from project.settings import AGENT_EVENTS

AGENT_EVENTS = {**AGENT_EVENTS, **json.loads(os.environ.get("BENCHMARKS_AGENT_EVENTS", "{}"))}
