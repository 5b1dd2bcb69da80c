"""The project's settings, with the bus's own taken from the environment: for server processes.

TEST_AGENT_EVENTS    JSON, over what `project.settings.AGENT_EVENTS` says
TEST_CHANNEL_LAYERS  JSON, in place of CHANNEL_LAYERS

`tests.support.watch.bus_settings` makes the environment that leads here.
"""

import json
import os

from project.settings import *  # noqa: F403
from project.settings import AGENT_EVENTS, CHANNEL_LAYERS

AGENT_EVENTS = {**AGENT_EVENTS, **json.loads(os.environ.get("TEST_AGENT_EVENTS", "{}"))}
CHANNEL_LAYERS = json.loads(os.environ.get("TEST_CHANNEL_LAYERS", "null")) or CHANNEL_LAYERS
