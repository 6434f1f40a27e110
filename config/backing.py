"""Which database, store and broker back this process: pure functions of the environment.

Nothing set means embedded: SQLite, files under `DATA_DIR`, Celery's filesystem broker. Each real service is
switched on by one variable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Environment = Mapping[str, str]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# libpq's own options, each of which the query of DATABASE_URL may set otherwise. A server that vanished without a
# word is noticed within 15 s; a process that was stopped inside a transaction holds its locks for 60 s at most.
POSTGRESQL_OPTIONS = {
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "application_name": "loradex",
    "options": "-c lock_timeout=20s -c idle_in_transaction_session_timeout=60s",
}
# Sent again, by the broker alone, if no worker has acknowledged them for so long. The rows know better and sooner: a
# second message for a job finds it taken and does nothing. So this only needs to be longer than jobs usually take.
REDIS_VISIBILITY_S = 3600


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
    if not url.path.strip("/"):
        raise ValueError("DATABASE_URL names no database; use postgresql://user:password@host:port/name")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.strip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": unquote(url.hostname or ""),
        "PORT": url.port or "",
        "OPTIONS": POSTGRESQL_OPTIONS | dict(parse_qsl(url.query)) | _pool(env),
        # A connection that died with its server is replaced before a request meets it.
        "CONN_HEALTH_CHECKS": True,
        # They would not survive a pooler in transaction mode, such as PgBouncer.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }


def _pool(env: Environment) -> dict[str, Any]:
    """A pool with a connection for every thread of a web process. Workers fork and use one connection: no pool."""
    threads = int(env.get("LORADEX_WEB_THREADS", "0"))
    if not threads:
        return {}
    # Some more for the checks of /readyz. After an outage, a request waits `timeout` at most, and reconnecting is
    # tried at least every two seconds.
    return {"pool": {"min_size": 1, "max_size": threads + 4, "max_idle": 60, "timeout": 5, "reconnect_timeout": 5}}


def blob_store(env: Environment, data_dir: Path) -> dict[str, Any]:
    """The backend of `registry.storage` and its options: files under DATA_DIR, or the bucket that S3_BUCKET names."""
    bucket, endpoint = env.get("S3_BUCKET"), env.get("S3_ENDPOINT_URL")
    if not bucket:
        if endpoint:
            raise ValueError("S3_ENDPOINT_URL is set without S3_BUCKET; set the bucket, too, or neither")
        return {"BACKEND": "registry.stores.files.FileStore", "OPTIONS": {"root": data_dir / "files"}}
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    options = {
        "bucket": bucket,
        "endpoint_url": endpoint or None,
        "public_endpoint_url": env.get("S3_PUBLIC_ENDPOINT_URL") or None,
        # Servers other than AWS rarely care for a region, but a signature has to name one.
        "region": region or ("us-east-1" if endpoint else None),
    }
    return {"BACKEND": "registry.stores.s3.S3Store", "OPTIONS": options}


def broker(env: Environment, data_dir: Path) -> dict[str, Any]:
    """Celery's broker_url and broker_transport_options: a folder, or the server that CELERY_BROKER_URL names."""
    if url := env.get("CELERY_BROKER_URL"):
        return {"broker_url": url, "broker_transport_options": _transport_options(urlsplit(url).scheme)}
    folder = str(data_dir / "broker")
    return {
        "broker_url": "folder://localhost",
        "broker_transport_options": {
            "data_folder_in": folder,
            "data_folder_out": folder,
            "store_processed": False,
            "polling_interval": 0.02,
        },
    }


def _transport_options(scheme: str) -> dict[str, Any]:
    """Bounds for every wait on the broker, so that a request whose broker is away is answered promptly.

    `max_retries` concerns sending; a worker reconnects for ever.
    """
    if scheme in ("redis", "rediss"):
        return {
            "max_retries": 0,
            "visibility_timeout": REDIS_VISIBILITY_S,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 10,
        }
    if scheme in ("amqp", "amqps", "pyamqp"):
        return {"max_retries": 0, "connect_timeout": 2, "confirm_publish": True, "confirm_timeout": 10}
    raise ValueError(
        f"CELERY_BROKER_URL starts with {scheme}://; use redis:// or amqp:// (rediss://, amqps:// for TLS)"
    )


def vector_engine(env: Environment) -> dict[str, str] | None:
    """What pymilvus connects to: the Milvus that VECTOR_ENGINE_URL names; None for FAISS."""
    if not (text := env.get("VECTOR_ENGINE_URL")):
        return None
    url = urlsplit(text)
    if url.scheme not in ("milvus", "milvuss"):
        raise ValueError(
            f"VECTOR_ENGINE_URL starts with {url.scheme}://; use milvus://user:password@host:port/database"
        )
    if not url.hostname:
        raise ValueError("VECTOR_ENGINE_URL names no host; use milvus://user:password@host:port/database")
    secure = "s" if url.scheme == "milvuss" else ""
    token = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else ""
    address = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return {
        "uri": f"http{secure}://{address}:{url.port or 19530}",
        "token": token,
        "db_name": unquote(url.path.strip("/")),
    }


def signup_open(env: Environment) -> bool:
    """Whether anybody may create an account: on loopback, or where SIGNUP=open says so."""
    return env.get("SIGNUP", "open" if env.get("HOST", "127.0.0.1") in LOOPBACK else "closed") == "open"
