"""The page of the admin that says how the bus does. The database gets nothing."""

from django.db import migrations


class Migration(migrations.Migration):
    """The model `Bus`, which is no table and has no permission of its own."""

    dependencies = (("agent_events", "0006_coalescing"),)

    operations = (
        migrations.CreateModel(
            name="Bus",
            fields=[],
            options={
                "verbose_name": "bus",
                "verbose_name_plural": "bus",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("agent_events.batch",),
        ),
    )
