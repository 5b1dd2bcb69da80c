"""Django settings of the example project, taken from the environment.

DATABASE_URL             a PostgreSQL server (15 or later); unset: the embedded one
AGENT_EVENTS_LISTENER_DSN  past a pooler in transaction mode, where DATABASE_URL leads to one
AGENT_EVENTS_BROKER_URL  a broker between `manage.py listen_events` and the web processes
DATA_DIR                 the embedded server's files, the generated secret key
PORT                     where `make run` serves
DJANGO_DEBUG             1 or 0; on by default with the embedded server alone
DJANGO_SECRET_KEY        required unless DJANGO_DEBUG is on
DJANGO_ALLOWED_HOSTS     names separated by commas; localhost under DJANGO_DEBUG
DJANGO_TLS_PROXY         1: behind a proxy that ends TLS and always sets X-Forwarded-Proto
DJANGO_PLAIN_HTTP        1: without TLS, on purpose. Otherwise, unless DJANGO_DEBUG is on, pages
                         redirect to https, and browsers send the cookies there alone
AGENT_EVENTS_METRICS_TOKEN  whoever sends it may see /metrics
"""

import os
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from project.database import UnsuitableDatabase, current_dsn, django_settings
from project.environment import (
    BASE_DIR,
    behind_tls_proxy,
    broker_url,
    data_dir,
    debug,
    plain_http,
)
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
    "axes",
    "channels",
    "agent_events",
    "project",
]

MIDDLEWARE = [
    "project.policy.ContentSecurityPolicy",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",  # last, as it asks to be
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
    "BROKER_URL": broker_url(),
    "LISTENER_DSN": os.environ.get("AGENT_EVENTS_LISTENER_DSN", ""),
    "METRICS_TOKEN": os.environ.get("AGENT_EVENTS_METRICS_TOKEN", ""),
}

# Django prints other loggers' warnings only; ours says at INFO that a fault is over.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"agent_events": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}

# The first one only refuses whoever is locked out.
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
if DEBUG:
    AUTHENTICATION_BACKENDS.append("project.demo_sign_in.DemoSignIn")

# Wrong passwords are counted in the database, which all processes share: for each name and address,
# so that nobody locks others out, but from behind the same address.
AXES_FAILURE_LIMIT = 6
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_WHITELIST_CALLABLE = "project.demo_sign_in.is_demo"
AXES_LOCKOUT_CALLABLE = "project.sign_in.locked_out"
AXES_SENSITIVE_PARAMETERS = ["username"]  # people type a password there; the address is logged
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False  # `manage.py axes_reset_username NAME` lets somebody in again

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

# Scripts never need a cookie: forms bear the CSRF token. SameSite is Lax, Django's default.
CSRF_COOKIE_HTTPONLY = True
if not DEBUG and not plain_http():
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True  # pages; streams, probes and metrics do not pass here
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    # Preloading binds a whole domain, and is asked for elsewhere: nothing that a site can decide.
    SILENCED_SYSTEM_CHECKS = ["security.W021"]
if behind_tls_proxy():
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
