"""Idempotency keys as Django sees them, so that its `flush` empties them, too."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    """The model `EventKey`. The table has been there from the beginning."""

    dependencies = (("agent_events", "0008_api_keys"),)

    operations = (
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="EventKey",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "tenant_id",
                                "key",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("tenant_id", models.UUIDField()),
                        ("key", models.TextField()),
                        ("event_id", models.BigIntegerField()),
                        ("created_at", models.DateTimeField(db_default=Now())),
                    ],
                    options={
                        "db_table": "agent_event_keys",
                        "default_permissions": (),
                    },
                ),
            ],
        ),
    )
