"""The SQL of the log and the ledger, in files that a DBA can read alone."""

from importlib import resources

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations import RunPython


def load(name: str, schema: str) -> str:
    """The text of `<name>.sql` with `@schema@` replaced by the quoted schema."""
    text = resources.files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return text.replace("@schema@", schema)


def run_file(forwards: str, backwards: str | None = None) -> RunPython:
    """A migration operation: run one SQL file, and in reverse another one, or nothing.

    Both run in the schema in which the migration's tables go (`current_schema()`), and their
    functions bear its name, so that nobody's search_path decides what they call.
    """

    def runner(name: str) -> object:
        def run(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
            with editor.connection.cursor() as cursor:
                cursor.execute("SELECT quote_ident(current_schema())")
                cursor.execute(load(name, cursor.fetchone()[0]))

        return run

    undo = RunPython.noop if backwards is None else runner(backwards)
    return RunPython(runner(forwards), undo)  # type: ignore[arg-type]
