"""Every setting of the project, each environment variable read once, typed, here and nowhere else.

`.env.example` lists the variables; docs/settings.md explains them. A `.env` file in the repository's root is read
where there is one; the process environment wins over it.
"""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values

from config.embedded import postgres_url, redis_url
from config.environment import Environment

BASE_DIR = Path(__file__).resolve().parent.parent
ENV = Environment({**dotenv_values(BASE_DIR / ".env"), **os.environ})

# --- Where things are -------------------------------------------------------------------------------------------------

DATA_DIR = ENV.path("DATA_DIR", BASE_DIR / "data")
MODELS_DIR = DATA_DIR / "models"
MODELS_FILE = ENV.path("MODELS_FILE", BASE_DIR / "models.toml")
RUN_MODELS = ENV.words("RUN_MODELS")
DEVICE = ENV.choice("DEVICE", "auto", ("auto", "cpu", "cuda"))
HOST = ENV.text("HOST", "127.0.0.1")
PORT = ENV.integer("PORT", 8000, least=1, most=65535)

EMBEDDED_POSTGRES = not ENV.text("DATABASE_URL")
EMBEDDED_REDIS = not ENV.text("REDIS_URL")
DATABASE_URL = ENV.url("DATABASE_URL", ("postgresql", "postgres")) or postgres_url(DATA_DIR)
REDIS_URL = ENV.url("REDIS_URL", ("redis", "rediss", "unix")) or redis_url(DATA_DIR)

# --- Safety -----------------------------------------------------------------------------------------------------------

DEBUG = ENV.flag("DEBUG")
HTTPS = ENV.flag("HTTPS")
BEHIND_PROXY = ENV.flag("BEHIND_PROXY")
ALLOWED_HOSTS = list(ENV.words("ALLOWED_HOSTS", ("127.0.0.1", "localhost", "[::1]")))


def _default_origins() -> tuple[str, ...]:
    if HTTPS:
        return tuple(f"https://{host}" for host in ALLOWED_HOSTS)
    return tuple(f"http://{host}:{PORT}" for host in ALLOWED_HOSTS)


ORIGINS = ENV.origins("ORIGINS", _default_origins())
CSRF_TRUSTED_ORIGINS = list(ORIGINS)


def _secret_key() -> str:
    """SECRET_KEY, or a random one that is made once and kept, readable by its owner alone, under DATA_DIR."""
    given = ENV.text("SECRET_KEY")
    if given:
        if len(given) < 50:
            raise ImproperlyConfigured("SECRET_KEY is too short; give it at least 50 random characters.")
        return given
    path = DATA_DIR / "secret_key"
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    try:
        # O_EXCL decides between processes that start together: one writes, the others read.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(64))
    except FileExistsError:
        pass
    return path.read_text()


SECRET_KEY = _secret_key()

SESSION_COOKIE_AGE = int(timedelta(days=365).total_seconds())
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = int(timedelta(days=365).total_seconds()) if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
SECURE_REFERRER_POLICY = "same-origin"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "worker-src": [SELF],
        "connect-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    },
}

# --- Django -----------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "config",
    "accounts",
    "inference",
    "chat",
]
MIDDLEWARE = [
    "config.requests.RequestLogMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # lucide-static brings the icons that pages include inline.
        "DIRS": [BASE_DIR / "templates", BASE_DIR / "node_modules" / "lucide-static"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = USE_I18N = True

# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _database(url: str) -> dict[str, object]:
    """Django's form of a PostgreSQL URL. Its query's options go to libpq; `host` there may be a socket folder."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise ImproperlyConfigured(
            "DATABASE_URL names no database; it looks like postgresql://user:password@host/name."
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        # psycopg's pool wants connections that Django does not keep itself.
        "CONN_MAX_AGE": 0,
        # After a restart of PostgreSQL the pool's connections are dead: each is tried before it is given out.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**options, "connect_timeout": 5, "pool": {"min_size": 1, "max_size": 16, "timeout": 10}},
    }


DATABASES = {"default": _database(DATABASE_URL)}

# --- Static files -----------------------------------------------------------------------------------------------------

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
# Third-party modules of package.json, under names of our own, and which of their files are served.
VENDOR = {
    "dompurify": "dompurify/dist",
    "highlight": "@highlightjs/cdn-assets/es",
    "katex": "katex/dist",
    "markdown-it": "markdown-it/dist/browser",
}
VENDOR_FILES = (
    "vendor/dompurify/purify.es.mjs*",
    "vendor/highlight/highlight.min.js",
    "vendor/katex/katex.mjs",
    "vendor/katex/katex.min.css",
    "vendor/katex/fonts/*",
    "vendor/markdown-it/markdown-it.esm.min.mjs*",
)
STATICFILES_FINDERS = [
    "config.static.ChosenFilesFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
]
STATICFILES_DIRS: list[Path | tuple[str, Path]] = [
    BASE_DIR / "static",
    *((f"vendor/{name}", BASE_DIR / "node_modules" / folder) for name, folder in VENDOR.items()),
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "config.static.HashedModulesStorage"},
}
SERVESTATIC_INDEX_FILE = False

# --- Chat and inference -----------------------------------------------------------------------------------------------

MESSAGE_MAX_BYTES = 48 * 1024
SHARES_PER_OWNER = 100
SHARE_MAX_MESSAGES = 1000
SHARE_MAX_BYTES = 1024 * 1024
SHARE_COPIES_PER_HOUR = 30
QUEUE_LIMIT = ENV.integer("QUEUE_LIMIT", 200, least=1, most=100_000)
ACTIVE_LIMIT = ENV.integer("ACTIVE_LIMIT", 4, least=1, most=1000)
WORKER_SLOTS = ENV.integer("WORKER_SLOTS", 32, least=1, most=512)
WORKER_THREADS = ENV.integer("WORKER_THREADS", 0, least=0, most=1024)
ELSEWHERE_API_KEY = ENV.secret("ELSEWHERE_API_KEY")
WORKER_PACE_MS = ENV.integer("WORKER_PACE_MS", 0, least=0, most=10_000)
GUEST_RETENTION_DAYS = ENV.integer("GUEST_RETENTION_DAYS", 30, least=1, most=3650)

# --- Logs -------------------------------------------------------------------------------------------------------------

LOG_LEVEL = ENV.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = ENV.choice("LOG_FORMAT", "text", ("text", "json"))
# An exception's own words may quote what people wrote: for a machine where nobody but the developer writes.
LOG_ERROR_TEXT = ENV.flag("LOG_ERROR_TEXT")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "config.logs.LineFormatter", "tell_errors": LOG_ERROR_TEXT},
        "json": {"()": "config.logs.JSONFormatter"},
    },
    "filters": {"unhandled": {"()": "config.logs.UnhandledOnly"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json" if LOG_FORMAT == "json" else "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Their lines repeat what config.requests logs, with addresses and query strings.
        "django.request": {"level": "ERROR", "filters": ["unhandled"]},
        "django.channels.server": {"level": "ERROR"},
        "daphne": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "httpcore2": {"level": "WARNING"},
        "apscheduler": {"level": "WARNING"},
        "celery": {"level": "WARNING"},
        "psycopg.pool": {"level": "ERROR"},
    },
}
