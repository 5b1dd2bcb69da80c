"""The tables. A table agent_events that is there already is taken over; see sql/take_over.sql.

Reversing this drops every event, but for a table that was taken over; see sql/drop_tables.sql.
"""

import uuid

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import agent_events.models
from agent_events.sql import run_file


class Migration(migrations.Migration):
    """Tables, constraints and indexes of the log and the ledger; tenants and their members."""

    initial = True

    dependencies = (migrations.swappable_dependency(settings.AUTH_USER_MODEL),)

    operations = (
        run_file("take_over"),
        run_file("tables", "drop_tables"),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="AgentEvent",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False)),
                        ("tenant_id", models.UUIDField(verbose_name="tenant")),
                        ("agent_id", models.UUIDField(verbose_name="agent")),
                        (
                            "event_type",
                            models.TextField(
                                max_length=200,
                                validators=[django.core.validators.MinLengthValidator(1)],
                                verbose_name="type",
                            ),
                        ),
                        ("payload", models.JSONField(verbose_name="payload")),
                        (
                            "created_at",
                            models.DateTimeField(
                                db_default=django.db.models.functions.datetime.Now(),
                                verbose_name="created at",
                            ),
                        ),
                        (
                            "tx",
                            agent_events.models.Xid8Field(
                                db_default=agent_events.models.CurrentTransactionId(),
                                editable=False,
                                verbose_name="transaction",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "agent_events",
                        "verbose_name": "event",
                        "verbose_name_plural": "events",
                        "ordering": ("-id",),
                    },
                ),
            ],
        ),
        migrations.CreateModel(
            name="Tenant",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", models.CharField(max_length=200, unique=True, verbose_name="name")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
            ],
            options={
                "verbose_name": "tenant",
                "verbose_name_plural": "tenants",
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="agent_events.tenant"
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="agent_events_memberships",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "membership",
                "verbose_name_plural": "memberships",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant", "user"), name="agent_events_one_membership"
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="tenant",
            name="members",
            field=models.ManyToManyField(
                related_name="agent_events_tenants",
                through="agent_events.Membership",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    )
