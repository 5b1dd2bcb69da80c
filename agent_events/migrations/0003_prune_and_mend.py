"""Retention and mending. Reversing this keeps every event; see sql/drop_maintain.sql."""

from django.db import migrations

from agent_events.sql import run_file


class Migration(migrations.Migration):
    """agent_events_prune, agent_events_mend, and what they need."""

    dependencies = (("agent_events", "0002_append_read_ring"),)

    operations = (run_file("maintain", "drop_maintain"),)
