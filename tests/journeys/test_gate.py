"""The quality of the plain router on real tasks, over HTTP."""

import pytest

from tests.journeys.gate import rates_over_http
from tests.retrieval.dataset import CORE_BASELINE, TOLERANCE

pytestmark = pytest.mark.journey


def test_lora_retriever_finds_the_experts_of_the_core_tasks(site, tmp_path):
    assert rates_over_http(site, tmp_path, core_only=True) == pytest.approx(CORE_BASELINE, abs=TOLERANCE)
