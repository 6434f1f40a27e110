"""The main job, step by step as in `tests/journeys`, on PostgreSQL, Redis and S3."""

import hashlib

import pytest
import requests

# The steps and their fixtures, collected once more over the `site` of this folder.
from tests.journeys.test_main_job import *  # noqa: F403
from tests.journeys.test_main_job import ZOO

pytestmark = pytest.mark.journey


def test_a_file_is_downloaded_from_the_store_itself_through_a_url_that_expires(ada, site):
    path = "/adapters/ada/date-format/files/adapter_model.safetensors"
    answer = ada.get(path, allow_redirects=False)
    assert answer.status_code == 302
    url = answer.headers["Location"]
    assert url.startswith(site.env["S3_PUBLIC_ENDPOINT_URL"])
    assert "Expires" in url
    # A caller without any credentials: the signature is all it takes.
    got = requests.get(url, timeout=30).content
    weights = (ZOO / "date-format" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(got).hexdigest() == hashlib.sha256(weights).hexdigest()
