"""The Celery application: `celery -A config worker` runs the jobs."""

import logging
import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


TRANSPORT_ALIASES["folder"] = "config.folder_broker:Transport"


def _options() -> dict[str, Any]:
    for folder in settings.CELERY["broker_transport_options"].values():
        # The transport expects its folder to exist.
        if isinstance(folder, str):
            Path(folder).mkdir(parents=True, exist_ok=True)
    return settings.CELERY


app = Celery("loradex")
# A promise: this module is imported while the settings are still being read.
app.add_defaults(_options)
app.autodiscover_tasks(["workers"])


@setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Django has set logging up; with a receiver here, Celery does not set it up again."""
    logging.captureWarnings(True)
