"""The project's settings, with a page that embeds feeds: for server processes."""

from project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.embed_urls"
