"""The project's settings with a storage of static files taken from the environment.

TEST_STORAGE      the class, by its dotted name
TEST_STATIC_ROOT  where `collectstatic` puts the files, and where they are served from
"""

import os

from tests.support.settings import *  # noqa: F403

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": os.environ["TEST_STORAGE"]},
}
# Ours alone: the admin's own files are Django's affair.
STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
STATIC_ROOT = os.environ["TEST_STATIC_ROOT"]
ROOT_URLCONF = "tests.support.collected_urls"
