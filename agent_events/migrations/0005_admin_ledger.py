"""The ledger as Django's admin sees it. The database gets Django's permission for it alone."""

from django.db import migrations, models

import agent_events.models


class Migration(migrations.Migration):
    """The model `Batch`, which Django does not manage."""

    dependencies = (("agent_events", "0004_attach"),)

    operations = (
        migrations.CreateModel(
            name="Batch",
            fields=[
                (
                    "n",
                    models.BigIntegerField(primary_key=True, serialize=False, verbose_name="batch"),
                ),
                ("seen", agent_events.models.SnapshotField(verbose_name="snapshot")),
                ("total", models.BigIntegerField(verbose_name="events up to and with it")),
                ("closed_at", models.DateTimeField(verbose_name="closed at")),
            ],
            options={
                "verbose_name": "batch",
                "verbose_name_plural": "ledger",
                "db_table": "agent_event_batches",
                "ordering": ("-n",),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    )
