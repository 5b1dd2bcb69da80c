"""Events from other tables. Reversing this takes all attachments away; see sql/drop_attach.sql."""

from django.db import migrations

from agent_events.sql import run_file


class Migration(migrations.Migration):
    """agent_events_attach, agent_events_detach and their list."""

    dependencies = (("agent_events", "0003_prune_and_mend"),)

    operations = (
        run_file("attachments", "drop_attach"),  # drops what both installed
        run_file("attach"),
    )
