"""A secret key for a developer's own machine."""

import contextlib
import os
import secrets
from pathlib import Path

from project.postgres_home import make_data_dir


def generated_secret_key(data_dir: Path) -> str:
    """The key in `data_dir/secret_key`, made once: sessions outlive a restart of the server."""
    path = data_dir / "secret_key"
    if not path.exists():
        make_data_dir(data_dir)
        mine = path.with_suffix(f".{os.getpid()}")
        with open(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{secrets.token_urlsafe(50)}\n")
        # A link, not a rename: of several processes that start at once the first one's key stays.
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
    return path.read_text().strip()
