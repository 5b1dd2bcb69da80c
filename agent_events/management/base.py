"""What our commands have in common: an error of the database, and Ctrl-C, end in a sentence."""

import sys
from typing import Any, NoReturn

import django.db
import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Model

from agent_events.problems import trouble_of

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended


class LogCommand(BaseCommand):
    """A command that says in one line why it could not go on."""

    stopped = "Stopped."
    """What is said after Ctrl-C: what is done, and what is not."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Runs it. Raises CommandError for errors of the database; exits with 130 after Ctrl-C."""
        try:
            return super().execute(*args, **options)
        except (django.db.Error, psycopg.Error) as error:
            raise CommandError(in_words(error)) from error
        except KeyboardInterrupt:
            self.interrupted(self.stopped)

    def interrupted(self, words: str) -> NoReturn:
        """Says so, and exits."""
        self.stderr.write(words)
        sys.exit(INTERRUPTED)


def checked_name(model: type[Model], name: str) -> str:
    """The name, if one of this model can have it. Raises CommandError."""
    longest = getattr(model._meta.get_field("name"), "max_length", None) or 0
    # (Bytes that are no UTF-8 come from a shell as halves of surrogate pairs.)
    halves = any("\ud800" <= character <= "\udfff" for character in name)
    if not name.strip() or len(name) > longest or halves:
        raise CommandError(f"The name must be text of 1 to {longest} characters.")
    return name


def in_words(error: Exception) -> str:
    """What is wrong and what to do, then what the server said."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    diag = cause.diag if isinstance(cause, psycopg.Error) else None
    said = (diag.message_primary if diag else "") or " ".join(str(error).split())
    words = trouble_of(error)
    if words is None:
        hint = diag.message_hint if diag else ""
        return f"{said}. {hint}" if hint else said
    return f"{words} ({said})" if said else words
