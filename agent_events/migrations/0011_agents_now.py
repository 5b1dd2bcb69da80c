"""Two small indexes for "agents now": who waits for a person, however long, and which runs ended.

Alone in a file, and not in a transaction: they are built while events come, and lock nobody out.
One that was cut off by an error is begun anew by the next `migrate`.
"""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Left


class AddIndex(AddIndexConcurrently):
    """AddIndexConcurrently that can be repeated: the file's other index may be there already."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Builds the index, unless it is there; what an error left half built goes first."""
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(
                "SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
                " WHERE c.relname = %s"
                " AND c.relnamespace = quote_ident(current_schema())::regnamespace",
                [self.index.name],
            )
            found = cursor.fetchone()
            if found and not found[0]:
                cursor.execute(f'DROP INDEX CONCURRENTLY "{self.index.name}"')
        if not (found and found[0]):
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    """`agent_events_human` and `agent_events_run_end`."""

    atomic = False

    dependencies = (("agent_events", "0010_filters"),)

    operations = (
        AddIndex(
            "agentevent",
            models.Index(
                fields=["tenant_id", "tx", "id"],
                name="agent_events_human",
                condition=models.Q(event_type__in=["needs_human", "escalation", "human.answered"]),
            ),
        ),
        AddIndex(
            "agentevent",
            models.Index(
                models.F("tenant_id"),
                Left(KeyTextTransform("run_id", "payload"), 200),
                name="agent_events_run_end",
                condition=models.Q(event_type__in=["run.finished", "run.failed"]),
            ),
        ),
    )
