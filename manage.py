#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys


def main() -> None:
    """Run the command, on the embedded PostgreSQL unless DATABASE_URL names another."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from project.database import UnsuitableDatabase, prepare_for_command

    try:
        prepare_for_command(sys.argv)
    except UnsuitableDatabase as error:
        sys.exit(f"manage.py: {error}")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
