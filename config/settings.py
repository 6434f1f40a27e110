"""Settings, read from the environment once, top to bottom. `.env.example` lists every variable."""

import os
import secrets
from pathlib import Path

from config import backing

ROOT = Path(__file__).resolve().parent.parent
ENV = os.environ

DATA_DIR = Path(ENV.get("DATA_DIR") or ROOT / "data").resolve()
DATA_DIR.mkdir(parents=True, exist_ok=True)
HOST = ENV.get("HOST", "127.0.0.1")
PORT = int(ENV.get("PORT", "8000"))
EXTERNAL_URL = ENV.get("EXTERNAL_URL", f"http://{f'[{HOST}]' if ':' in HOST else HOST}:{PORT}").rstrip("/")


def _secret_key() -> str:
    """SECRET_KEY, or one made once and kept in DATA_DIR with mode 600."""
    if ENV.get("SECRET_KEY"):
        return ENV["SECRET_KEY"]
    path = DATA_DIR / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(50))
    return path.read_text()


SECRET_KEY = _secret_key()
DEBUG = False
ALLOWED_HOSTS = ENV.get("ALLOWED_HOSTS", "").split() or [*backing.LOOPBACK, "[::1]", HOST]
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
    "django_prometheus",
    "registry",
    "retrieval",
    "workers",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.http_errors.JsonErrorsMiddleware",
    "config.csp.ContentSecurityPolicyMiddleware",
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
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
STATIC_URL = "static/"
STATICFILES_DIRS = [ROOT / "static"]
STATIC_ROOT = DATA_DIR / "static"

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
    "broker_connection_retry_on_startup": True,
}
JOB_LEASE_S = int(ENV.get("JOB_LEASE_S", "60"))
MAX_UPLOAD_BYTES = int(ENV.get("MAX_UPLOAD_BYTES", str(4 * 1024**3)))
UPLOAD_DIR = DATA_DIR / "incoming"
SCRATCH_DIR = DATA_DIR / "scratch"
FILE_UPLOAD_HANDLERS = ["registry.upload_stream.SpoolingUploadHandler"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024**2

ENCODER_MODEL = ENV.get("ENCODER_MODEL", "")
BASE_MODELS_DIR = ENV.get("BASE_MODELS_DIR", "")
DEVICE = ENV.get("DEVICE", "cpu")

AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = EXTERNAL_URL.startswith("https://")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

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
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": ENV.get("LOG_LEVEL", "WARNING")},
    "loggers": {name: {"level": "INFO"} for name in ("registry", "retrieval", "workers", "config")},
}
