"""Every test runs offline (loopback excepted), in a private DATA_DIR, without the environment's services."""

import atexit
import os
import shutil
import tempfile

SERVICES = ("DATABASE_URL", "S3_BUCKET", "CELERY_BROKER_URL", "HOST", "PORT", "EXTERNAL_URL", "ENCODER_MODEL", "SIGNUP")
for _name in SERVICES:
    os.environ.pop(_name, None)
_data_dir = tempfile.mkdtemp(prefix="loradex-test-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
os.environ["DATA_DIR"] = _data_dir
os.environ["HF_HUB_OFFLINE"] = "1"
# One thread each: tests share two cores with the servers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402 - the settings read the environment at import
from pytest_socket import socket_allow_hosts  # noqa: E402


@pytest.fixture(autouse=True)
def _offline() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)
