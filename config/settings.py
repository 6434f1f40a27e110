"""Settings, read from the environment once, top to bottom. `.env.example` lists every variable."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from config import backing
from config.logs import logging_config
from config.proxies import parse_networks

ROOT = Path(__file__).resolve().parent.parent
ENV = os.environ

DATA_DIR = Path(ENV.get("DATA_DIR") or ROOT / "data").resolve()
DATA_DIR.mkdir(parents=True, exist_ok=True)
HOST = ENV.get("HOST", "127.0.0.1")
PORT = int(ENV.get("PORT", "8000"))
EXTERNAL_URL = (ENV.get("EXTERNAL_URL") or f"http://{f'[{HOST}]' if ':' in HOST else HOST}:{PORT}").rstrip("/")
HTTPS = EXTERNAL_URL.startswith("https://")


def _secret_key() -> str:
    """SECRET_KEY, or one made once and kept in DATA_DIR with mode 600."""
    if ENV.get("SECRET_KEY"):
        return ENV["SECRET_KEY"]
    path = DATA_DIR / "secret_key"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=DATA_DIR) as file:
            file.write(secrets.token_urlsafe(50))
            file.flush()
            # A link appears whole, and only once: processes that start together end up with one key.
            with suppress(FileExistsError):
                os.link(file.name, path)
    return path.read_text()


SECRET_KEY = _secret_key()
DEBUG = False
_own_names = [*backing.LOOPBACK, "[::1]", HOST, urlsplit(EXTERNAL_URL).hostname or HOST]
ALLOWED_HOSTS = ENV.get("ALLOWED_HOSTS", "").split() or _own_names
CSRF_TRUSTED_ORIGINS = [EXTERNAL_URL]
SIGNUP_OPEN = backing.signup_open(ENV)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "config",
    "registry",
    "retrieval",
    "workers",
]
MIDDLEWARE = [
    "config.request_log.RequestLogMiddleware",
    "config.http_errors.JsonErrorsMiddleware",
    "config.security_headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.addresses.AddressMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "registry.views.context.site",
            ]
        },
    }
]

DATABASES = {"default": backing.database(ENV, DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "blobs": backing.blob_store(ENV, DATA_DIR),
    "staticfiles": {"BACKEND": "config.static_files.HashedFiles"},
}
STATIC_URL = "static/"
STATICFILES_DIRS = [ROOT / "static"]
STATIC_ROOT = Path(ENV.get("STATIC_ROOT") or DATA_DIR / "static")

CELERY = {
    **backing.broker(ENV, DATA_DIR),
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_concurrency": 1,
    "worker_hijack_root_logger": False,
    "worker_enable_remote_control": False,
    # A worker waits for its broker for ever, at its start and later, and finishes the job it has meanwhile.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}
JOB_LEASE_S = int(ENV.get("JOB_LEASE_S", "60"))
MAX_UPLOAD_BYTES = int(ENV.get("MAX_UPLOAD_BYTES", str(4 * 1024**3)))
UPLOAD_DIR = DATA_DIR / "incoming"
SCRATCH_DIR = DATA_DIR / "scratch"
FILE_UPLOAD_HANDLERS = ["registry.upload_stream.SpoolingUploadHandler"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024**2

VECTOR_ENGINE = backing.vector_engine(ENV)
ENCODER_MODEL = ENV.get("ENCODER_MODEL", "")
BASE_MODELS_DIR = ENV.get("BASE_MODELS_DIR", "")
DEVICE = ENV.get("DEVICE", "cpu")
ROUTER_LLM_URL = ENV.get("ROUTER_LLM_URL", "")
ROUTER_LLM_MODEL = ENV.get("ROUTER_LLM_MODEL", "")
ROUTER_LLM_KEY = ENV.get("ROUTER_LLM_KEY", "")

AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
# All or nothing: where browsers are told https, everything else is sent there, and they remember it for a year.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$", "^metrics$"]
# HSTS for this name only: its subdomains, and browsers' preload lists, are not ours to decide about.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
TRUSTED_PROXIES = parse_networks(ENV.get("TRUSTED_PROXIES", "127.0.0.1 ::1"))

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "registry.tokens.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["registry.api.parsers.BoundedJSONParser"],
    # Escaped, so that an answer can echo any text it was sent, lone surrogates included.
    "UNICODE_JSON": False,
    "DEFAULT_PAGINATION_CLASS": "registry.api.pagination.Pages",
    "PAGE_SIZE": 20,
    "EXCEPTION_HANDLER": "config.http_errors.to_response",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Loradex",
    "DESCRIPTION": "Registry, router and merger of LoRA experts",
    "VERSION": "1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_INCLUDE_SCHEMA": False,
}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LOGGING = logging_config(ENV.get("LOG_LEVEL", "WARNING"))
METRICS_PORT = int(ENV.get("METRICS_PORT") or 0)
# Read by prometheus_client when it is first imported, which is later than this.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(DATA_DIR / "metrics"))
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)
