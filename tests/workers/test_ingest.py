"""What the job of a revision says about its values."""

import pytest

from registry.imports import find_folders, import_folder, namespace_owner
from registry.intake import Described
from registry.models import Revision
from tests.api.conftest import run_jobs
from tests.lora.factories import write_adapter_files
from workers.handlers import ingest

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def warned(tmp_path):
    """Takes in an adapter for each given lora_alpha, and returns whether each was called an outlier."""

    def take_in(owner, alphas):
        for number, alpha in enumerate(alphas):
            write_adapter_files(tmp_path / owner / f"expert-{number:02}", alpha=alpha, seed=number)
        user = namespace_owner(owner)
        taken = [import_folder(user, found, Described()).revision for found in find_folders(tmp_path / owner, owner)]
        run_jobs()
        now = Revision.objects.in_bulk([revision.pk for revision in taken])
        codes = [{warning["code"] for warning in now[revision.pk].warnings} for revision in taken]
        return ["norm_outlier" in found for found in codes]

    return take_in


def test_an_expert_far_larger_than_the_others_on_its_base_is_called_an_outlier(warned):
    assert warned("ada", [8] * ingest.NORM_POOL_MIN + [800, 9]) == [False] * ingest.NORM_POOL_MIN + [True, False]


def test_experts_are_compared_with_the_newest_ones(warned, monkeypatch):
    """Whatever the size of the pool, a job reads so many norms and no more."""
    monkeypatch.setattr(ingest, "NORM_POOL_MAX", ingest.NORM_POOL_MIN)
    warned("ada", [8] * ingest.NORM_POOL_MIN)
    verdicts = warned("bo", [800] * (ingest.NORM_POOL_MIN + 1))
    assert (verdicts[0], verdicts[-1]) == (True, False)
