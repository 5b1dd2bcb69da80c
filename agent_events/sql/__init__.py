"""The SQL of the log and the ledger, in files that a DBA can read alone."""

import logging
from importlib import resources

from django.core.management import CommandError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations import RunPython
from psycopg import Connection
from psycopg.errors import Diagnostic

logger = logging.getLogger("agent_events")


def load(name: str, schema: str) -> str:
    """The text of `<name>.sql` with `@schema@` replaced by the quoted schema."""
    text = resources.files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return text.replace("@schema@", schema)


def run_file(forwards: str, backwards: str | None = None) -> RunPython:
    """A migration operation: run one SQL file, and in reverse another one, or nothing.

    Both run in the schema in which the migration's tables go (`current_schema()`), and their
    functions bear its name, so that nobody's search_path decides what they call. Warnings that the
    SQL raises are logged. Raises CommandError, which `migrate` prints as a sentence, on a database
    that is no PostgreSQL.
    """

    def runner(name: str) -> object:
        def run(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
            if editor.connection.vendor != "postgresql":
                raise CommandError(_wrong_database(editor.connection))
            with editor.connection.cursor() as cursor:
                cursor.execute("SELECT quote_ident(current_schema())")
                sql = load(name, cursor.fetchone()[0])
                connection: Connection = editor.connection.connection
                connection.add_notice_handler(_log_warning)
                try:
                    cursor.execute(sql)
                finally:
                    connection.remove_notice_handler(_log_warning)

        run.__doc__ = f"{name}.sql"  # what `migrate --plan` shows
        return run

    undo = RunPython.noop if backwards is None else runner(backwards)
    return RunPython(runner(forwards), undo)  # type: ignore[arg-type]


def _wrong_database(connection: BaseDatabaseWrapper) -> str:
    return (
        f'The log needs PostgreSQL, and DATABASES["{connection.alias}"] is {connection.vendor}: '
        'name the alias that is PostgreSQL in AGENT_EVENTS = {"DATABASE": "<alias>"}, add '
        '"agent_events.log_router.LogRouter" to DATABASE_ROUTERS, and migrate that one too '
        "(docs/install.md)."
    )


def _log_warning(notice: Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        logger.warning("%s", notice.message_primary)
