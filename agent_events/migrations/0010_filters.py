"""Pages filtered by all that a filter can ask for; see sql/pages.sql.

pages.sql is that of 0002, where a new database gets it: this brings it to one that is older.
Reversing this leaves it: whoever names agents and types alone calls it as before.
"""

from django.db import migrations

from agent_events.sql import run_file


class Migration(migrations.Migration):
    """More arguments for `agent_events_read`, `agent_events_page` and the same backwards."""

    dependencies = (("agent_events", "0009_event_keys"),)

    operations = (run_file("pages"),)
