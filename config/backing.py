"""Which database, store and broker back this process: pure functions of the environment.

Nothing set means embedded: SQLite, files under `DATA_DIR`, Celery's filesystem broker. Each real service is
switched on by one variable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Environment = Mapping[str, str]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def database(env: Environment, data_dir: Path) -> dict[str, Any]:
    """Django's DATABASES["default"]: SQLite in WAL mode, or PostgreSQL where DATABASE_URL names one."""
    url = urlsplit(env.get("DATABASE_URL", ""))
    if not url.scheme:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": data_dir / "db.sqlite3",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # IMMEDIATE takes the write lock at BEGIN, so that two writers queue instead of failing at COMMIT.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-32000;",
            },
        }
    if url.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"DATABASE_URL starts with {url.scheme}://; use postgresql://user:password@host:port/name")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.lstrip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": url.port or "",
        "OPTIONS": {"pool": True},
    }


def blob_store(env: Environment, data_dir: Path) -> dict[str, Any]:
    """The `registry.storage` backend and its options: files under DATA_DIR."""
    if env.get("S3_BUCKET"):
        raise ValueError("S3_BUCKET is set, but this version stores files under DATA_DIR only; unset it")
    return {"BACKEND": "registry.storage.FileStore", "OPTIONS": {"root": data_dir / "files"}}


def broker(env: Environment, data_dir: Path) -> dict[str, Any]:
    """Celery's broker_url and broker_transport_options: a folder, or the server that CELERY_BROKER_URL names."""
    if env.get("CELERY_BROKER_URL"):
        return {"broker_url": env["CELERY_BROKER_URL"], "broker_transport_options": {}}
    folder = str(data_dir / "broker")
    return {
        "broker_url": "folder://localhost",
        "broker_transport_options": {
            "data_folder_in": folder,
            "data_folder_out": folder,
            "store_processed": False,
            "polling_interval": 0.2,
        },
    }


def signup_open(env: Environment) -> bool:
    """Whether anybody may create an account: on loopback, or where SIGNUP=open says so."""
    return env.get("SIGNUP", "open" if env.get("HOST", "127.0.0.1") in LOOPBACK else "closed") == "open"
