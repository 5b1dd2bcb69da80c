"""The doorbell that is silent while batches are closed by the clock; see sql/ring.sql.

ring.sql is that of 0002, where a new database gets it: this brings it to one that is older.
Reversing this leaves it: a doorbell that nobody silences rings.
"""

from django.db import migrations

from agent_events.sql import run_file


class Migration(migrations.Migration):
    """The trigger's WHEN, and what the closing of a batch does besides."""

    dependencies = (("agent_events", "0005_admin_ledger"),)

    operations = (run_file("ring"), run_file("sequence", "drop_sequence"))
