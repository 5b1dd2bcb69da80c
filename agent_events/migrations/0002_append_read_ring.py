"""The functions and the trigger. Reversing this keeps every event; see sql/drop_functions.sql."""

from django.db import migrations

from agent_events.sql import run_file


class Migration(migrations.Migration):
    """The ledger's append, the reading functions, the doorbell."""

    dependencies = (("agent_events", "0001_log_and_ledger"),)

    operations = (
        run_file("append", "drop_functions"),  # drops what all four installed
        run_file("read"),
        run_file("pages"),
        run_file("ring"),
    )
