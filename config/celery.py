"""The Celery application: `celery -A config worker` runs the jobs."""

import os
from pathlib import Path

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
app = Celery("loradex")
app.conf.update(settings.CELERY)
app.autodiscover_tasks(["workers"])

for _folder in settings.CELERY["broker_transport_options"].values():
    # The filesystem transport expects its folders to exist.
    if isinstance(_folder, str):
        Path(_folder).mkdir(parents=True, exist_ok=True)
