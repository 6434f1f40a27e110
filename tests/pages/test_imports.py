"""The import page, and what the page of its job shows."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from registry.models import ImportedFolder, Job, Namespace
from tests.api.conftest import run_jobs
from tests.lora.factories import write_adapter_files
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff(ada: User, browser: Client) -> Client:
    User.objects.filter(pk=ada.pk).update(is_staff=True)
    return browser


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "loras <b>"
    write_adapter_files(root / "one", seed=1)
    (root / "old").mkdir(parents=True)
    (root / "old" / "adapter_config.json").write_text("{}")
    return root


def order(client: Client, root: Any, **fields: str) -> Any:
    return client.post("/import/", {"dir": str(root), "owner": "zoo", "visibility": "private"} | fields)


def test_only_staff_get_the_page(client: Client, browser: Client, tree: Path) -> None:
    assert client.get("/import/").headers["Location"] == "/login/?next=/import/"
    assert browser.get("/import/").status_code == 403
    assert order(browser, tree).status_code == 403
    assert not Job.objects.exists()
    assert "/import/" not in browser.get("/jobs/").content.decode()


def test_the_form_refuses_beside_the_field(staff: Client) -> None:
    check_html(staff.get("/import/").content.decode())
    for fields, field in (
        ({"dir": "loras"}, "dir"),
        ({"owner": "admin"}, "owner"),
        ({"visibility": "x"}, "visibility"),
    ):
        answer = staff.post("/import/", {"dir": "/srv", "owner": "zoo", "visibility": "public"} | fields)
        assert answer.status_code == 200
        assert list(answer.context["form"].errors) == [field]
        check_html(answer.content.decode())
    assert not Job.objects.exists()
    assert not Namespace.objects.filter(name="zoo").exists()


def test_a_look_leads_to_the_import_and_that_to_the_experts(staff: Client, tree: Path) -> None:
    page = order(staff, tree, dry="on").headers["Location"]
    html = staff.get(page).content.decode()
    assert "Nothing yet; folders appear here" in html
    run_jobs()
    html = staff.get(page).content.decode()
    check_html(html)
    assert "1 of 2 can be imported" in html
    assert "loras &lt;b&gt;" in html
    assert "adapter_model.safetensors is missing" in html
    assert "every" not in html

    page = order(staff, tree).headers["Location"]
    run_jobs()
    answer = staff.get(page)
    # Its own job has succeeded; the revision is still checked, so the page goes on looking.
    assert answer.context["job"].status == "succeeded"
    assert 'hx-trigger="every 3s"' in answer.content.decode()
    run_jobs()
    answer = staff.get(page + "?verdict=ready")
    assert [row["folder"].name for row in answer.context["rows"]] == ["zoo/one"]
    assert "every" not in answer.content.decode()
    check_html(answer.content.decode())
    assert page in staff.get("/import/").content.decode()


def test_a_directory_without_adapters_and_one_that_is_not_there_say_so(staff: Client, tmp_path: Path) -> None:
    empty = order(staff, tmp_path, dry="on").headers["Location"]
    missing = order(staff, tmp_path / "nowhere").headers["Location"]
    run_jobs()
    assert "No adapter found" in staff.get(empty).content.decode()
    html = staff.get(missing).content.decode()
    assert "sees no directory" in html
    assert "/import/?dir=" in html


def test_a_thousand_folders_come_in_pages(staff: Client, ada: User, django_assert_max_num_queries: Any) -> None:
    payload = {"dir": "/srv", "owner": "zoo", "visibility": "public", "dry": True}
    job = Job.objects.create(kind="import_folder", owner=ada, payload=payload, status="succeeded", result={})
    ImportedFolder.objects.bulk_create(
        ImportedFolder(job=job, path=f"f/{n}", name=f"zoo/f-{n}", outcome="refused" if n % 2 else "fits")
        for n in range(1001)
    )
    with django_assert_max_num_queries(14):
        answer = staff.get(f"/jobs/{job.pk}/?verdict=refused&page=2")
    assert answer.context["page"].paginator.count == 500
    assert answer.context["counts"]["fits"] == 501
    assert "?verdict=refused&amp;page=3" in answer.content.decode()
