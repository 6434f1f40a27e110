"""The project's settings over a private DATA_DIR, whatever services the environment names.

The services suite runs other tests once more on its own PostgreSQL, which it names in SUITE_DATABASE_URL.
"""

import atexit
import os
import shutil
import tempfile

for _name in (
    "DATABASE_URL",
    "S3_BUCKET",
    "CELERY_BROKER_URL",
    "HOST",
    "PORT",
    "EXTERNAL_URL",
    "ENCODER_MODEL",
    "SIGNUP",
    "ROUTER_LLM_URL",
    "ROUTER_LLM_MODEL",
    "ROUTER_LLM_KEY",
):
    os.environ.pop(_name, None)
if "SUITE_DATABASE_URL" in os.environ:
    os.environ["DATABASE_URL"] = os.environ["SUITE_DATABASE_URL"]
_data_dir = tempfile.mkdtemp(prefix="loradex-test-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
os.environ["DATA_DIR"] = _data_dir
os.environ["HF_HUB_OFFLINE"] = "1"
# One thread each: tests share two cores with the servers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from config.settings import *  # noqa: E402, F403 - the settings read the environment at import

# Unit tests render pages without collecting the static files first.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}  # noqa: F405
STATIC_ROOT.mkdir(exist_ok=True)  # noqa: F405
