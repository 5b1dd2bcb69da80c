"""Django settings of the example project, taken from the environment.

DATABASE_URL             a PostgreSQL server (15 or later); unset: the embedded one
AGENT_EVENTS_LISTENER_DSN  past a pooler in transaction mode, where DATABASE_URL leads to one
DATA_DIR                 the embedded server's files, the generated secret key
PORT                     where `make run` serves
DJANGO_DEBUG             1 or 0; on by default with the embedded server alone
DJANGO_SECRET_KEY        required unless DJANGO_DEBUG is on
DJANGO_ALLOWED_HOSTS     names separated by commas; localhost under DJANGO_DEBUG
"""

import os
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from project.database import UnsuitableDatabase, current_dsn, django_settings
from project.environment import BASE_DIR, data_dir, debug
from project.secret_key import generated_secret_key

DATA_DIR = data_dir()
DEBUG = debug()

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or (
    generated_secret_key(DATA_DIR) if DEBUG else ""
)
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "DJANGO_SECRET_KEY is not set: give it a long random text, the same for every process, "
        "or set DJANGO_DEBUG=1 on a machine of your own."
    )

ALLOWED_HOSTS = [
    name.strip()
    for name in os.environ.get(
        "DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else ""
    ).split(",")
    if name.strip()
]

INSTALLED_APPS = [
    "daphne",  # first: it replaces runserver
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "agent_events",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

try:
    DATABASES = {"default": django_settings(current_dsn())}
except UnsuitableDatabase as error:
    raise ImproperlyConfigured(str(error)) from error
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

# Only what differs from the defaults, which agent_events/conf.py documents.
AGENT_EVENTS: dict[str, Any] = {
    "LISTENER_DSN": os.environ.get("AGENT_EVENTS_LISTENER_DSN", ""),
}

# Django prints other loggers' warnings only; ours says at INFO that a fault is over.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"agent_events": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}

AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if DEBUG:
    AUTHENTICATION_BACKENDS.append("project.demo_sign_in.DemoSignIn")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"

USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
