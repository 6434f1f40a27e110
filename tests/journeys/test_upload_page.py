"""Uploading with the verdict before the upload, importing a directory, and the page of a job while it works."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.journeys.browser import drop_files, open_browser
from tests.journeys.server import ROOT, Site
from tests.lora.factories import MODULES, write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

ZOO = ROOT / "examples" / "zoo"
PASSWORD = "a long enough passphrase"
JOB_MS = 120_000
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
VERDICT_MS = 30_000


def log_in(page: Page, site: Site, name: str, *, staff: bool = False) -> None:
    """An account made by the operator, so that these journeys need no open sign-up."""
    site.create_token(name, *(["--staff"] if staff else []))
    code = f"from django.contrib.auth.models import User; u = User.objects.get(username={name!r}); "
    site.manage("shell", "--verbosity", "0", "-c", code + f"u.set_password({PASSWORD!r}); u.save()")
    page.goto("/login/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_attached()


def watch_requests(page: Page) -> list[Request]:
    seen: list[Request] = []

    def note(request: Request) -> None:
        seen.append(request)

    page.on("request", note)
    return seen


def posts(seen: list[Request], path: str) -> list[Request]:
    return [request for request in seen if request.method == "POST" and request.url.endswith(path)]


def test_the_verdict_comes_before_any_byte_of_the_weights(site: Site, tmp_path: Path) -> None:
    site.manage("add_base_model", BASE, "--config", "examples/smollm2-135m-instruct.json")
    folder = shutil.copytree(ZOO / "antonym", tmp_path / "antonym")
    weights = folder / "adapter_model.safetensors"
    header_bytes = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    with open_browser(site.url) as (page, _):
        log_in(page, site, "vera")
        seen = watch_requests(page)
        page.goto("/upload/")
        drop_files(page.context, page, "#drop", [folder])
        verdict = page.locator("#verdict")
        expect(page.locator("#verdict-state")).to_have_text("usable", timeout=VERDICT_MS)
        expect(verdict).to_contain_text(re.compile(r"120 of \d+ modules bind to " + re.escape(BASE)))
        expect(verdict).to_contain_text("--max-lora-rank 8")
        expect(page.locator("#name-note")).to_have_text("vera/antonym is free.")
        expect(page.locator("#samples-preview li")).to_have_count(3)

        # Nothing was uploaded, and of the weights only the header has left the browser.
        assert posts(seen, "/adapters/") == []
        sizes = [int(request.sizes()["requestBodySize"]) for request in posts(seen, "/checks/")]
        others = sum(path.stat().st_size for path in folder.iterdir() if path != weights)
        assert sizes
        assert max(sizes) < header_bytes + others + 10_000 < weights.stat().st_size

        page.get_by_text("Copy as curl or Python").click()
        expect(page.locator("#snippets")).to_contain_text("-F adapter_model.safetensors=@adapter_model.safetensors")
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page).to_have_url(re.compile("/jobs/"))
        assert len(posts(seen, "/adapters/")) == 1
        expect(page.get_by_role("status").first).to_have_text("succeeded", timeout=JOB_MS)
        expect(page.get_by_role("heading", name="vera/antonym is ready")).to_be_visible()
        expect(page).to_have_title(re.compile("succeeded"))
        expect(page.get_by_text("Cancel", exact=True)).to_have_count(0)

        # The same name again is announced as a revision.
        page.goto("/upload/?name=vera/antonym")
        expect(page.get_by_label("Name of the expert")).to_have_value("antonym")
        page.locator("#folder").set_input_files(folder)
        expect(page.locator("#name-note")).to_contain_text("becomes a new revision", timeout=VERDICT_MS)


def test_files_chosen_before_the_script_came_are_chosen(site: Site) -> None:
    with open_browser(site.url) as (page, _):
        log_in(page, site, "yara")
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        early = page.context.new_page()
        early.route("**/js/upload/page*.js", hold)
        early.goto("/upload/", wait_until="commit")
        early.locator("#folder").set_input_files(ZOO / "antonym")
        while not held:
            early.wait_for_timeout(10)
        held[0].continue_()
        expect(early.get_by_label("Name of the expert")).to_have_value("antonym")


def test_what_would_be_refused_is_not_sent(site: Site, tmp_path: Path) -> None:
    good = write_adapter_files(tmp_path / "good")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(good / "adapter_config.json", pickled)
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x02" + bytes(10_000))
    broken = shutil.copytree(good, tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes((good / "adapter_model.safetensors").read_bytes()[:-9])
    (broken / "adapter_config.json").write_text('{"r": "x"}')
    with open_browser(site.url) as (page, _):
        log_in(page, site, "walt")
        seen = watch_requests(page)
        page.goto("/upload/")
        body = page.locator("#verdict-body")

        drop_files(page.context, page, "#drop", [pickled])
        expect(body).to_contain_text("safetensors.torch.save_file", timeout=VERDICT_MS)
        expect(page.locator("#verdict-state")).to_have_text("not usable")

        # The problems of both files, at once.
        drop_files(page.context, page, "#drop", [broken])
        expect(body).to_contain_text("adapter_config.json", timeout=VERDICT_MS)
        expect(body.locator("li code", has_text="truncated")).to_be_visible()
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert")).to_be_visible()

        # A folder with several adapters: one is chosen, by hand where need be.
        both = tmp_path / "both"
        shutil.copytree(good, both / "one")
        shutil.copytree(broken, both / "two")
        page.locator("#drop").scroll_into_view_if_needed()
        drop_files(page.context, page, "#drop", [both])
        expect(page.locator("#which")).to_contain_text("2 adapters are in what you chose")
        expect(page.locator("#verdict-state")).to_have_text("usable", timeout=VERDICT_MS)
        page.locator("#which-adapter").select_option("both/two/")
        expect(page.locator("#verdict-state")).to_have_text("not usable", timeout=VERDICT_MS)
        expect(page.get_by_label("Name of the expert")).to_have_value("two")
        assert posts(seen, "/adapters/") == []


def test_a_lost_connection_keeps_the_form_and_typed_samples_are_sent(site: Site, tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path / "capitals")
    refusals = [{"status": 503, "headers": {"Retry-After": "7"}}, None]

    def fail(route: Route) -> None:
        answer = refusals.pop(0)
        if answer is None:
            route.abort("connectionreset")
        else:
            body = {"code": "not_ready", "message": "The store is away.", "detail": {}}
            route.fulfill(**answer, content_type="application/json", body=json.dumps(body))

    with open_browser(site.url, expected=("Failed to load resource",)) as (page, _):
        log_in(page, site, "xena")
        page.goto("/upload/")
        page.locator("#files").set_input_files(list(folder.iterdir()))
        page.get_by_label("Name of the expert").fill("capitals")
        page.get_by_label("Type them here").fill("Name the capital of Peru.\n\nAnd that of Chile?\n")
        expect(page.locator("#samples-note")).to_contain_text("2 samples", timeout=VERDICT_MS)
        expect(page.locator("#verdict-state")).to_have_text("usable")

        page.route("**/api/v1/adapters/", fail)
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("The store is away. The server asks to wait 7 s.")
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_contain_text("The connection ended")
        expect(page.get_by_label("Name of the expert")).to_have_value("capitals")
        assert refusals == []
        page.unroute("**/api/v1/adapters/")
        page.get_by_role("button", name="Try again").click()
        expect(page).to_have_url(re.compile("/jobs/"))
        expect(page.get_by_role("status").first).to_have_text("succeeded", timeout=JOB_MS)
        page.get_by_role("link", name="Open xena/capitals").click()
        expect(page.get_by_text("And that of Chile?").first).to_be_attached()


def test_an_upload_can_be_cancelled_by_keyboard(site: Site, tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path / "slow", dict.fromkeys(MODULES, (256, 256)), rank=64)
    with open_browser(site.url) as (page, _):
        log_in(page, site, "yuri")
        page.goto("/upload/")
        page.locator("#folder").set_input_files(folder)
        expect(page.locator("#verdict-state")).to_have_text("usable", timeout=VERDICT_MS)
        # The request hangs until it is cancelled.
        page.route("**/api/v1/adapters/", lambda route: None)
        page.get_by_role("button", name="Upload", exact=True).press("Enter")
        page.locator("#cancel-upload").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("Cancelled. Nothing was stored.")
        expect(page.locator("#chosen")).to_contain_text("adapter_model.safetensors")
        expect(page.locator("#cancel-upload")).to_be_hidden()


def test_staff_import_a_directory_in_the_browser(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "loras"
    for name in ("antonym", "language-id"):
        shutil.copytree(ZOO / name, root / name)
    (root / "old").mkdir()
    shutil.copy(ZOO / "antonym" / "adapter_config.json", root / "old")
    (root / "old" / "adapter_model.bin").write_bytes(b"\x80\x02")
    with open_browser(site.url) as (page, _):
        log_in(page, site, "zoe", staff=True)
        page.goto("/import/")
        page.get_by_label("Directory").fill(str(root))
        page.get_by_label("Owner").fill("zoes-zoo")
        page.get_by_role("button", name="Look first").click()
        expect(page.get_by_role("status").first).to_have_text("succeeded", timeout=JOB_MS)
        expect(page.get_by_role("heading", name="2 of 3 can be imported")).to_be_visible()
        expect(page.locator("tr", has_text="zoes-zoo/old")).to_contain_text("pickle")
        page.get_by_role("button", name="Import these 2").click()

        # The page stays live until the last revision is judged.
        expect(page.get_by_role("link", name="ready 2")).to_be_visible(timeout=JOB_MS)
        expect(page.get_by_role("status").first).to_have_text("succeeded")
        page.get_by_role("link", name="refused 1").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.goto("/adapters/zoes-zoo/antonym/")
        expect(page.locator(".badge.ready").first).to_be_visible()


def test_others_do_not_see_the_import_page(site: Site) -> None:
    with open_browser(site.url, expected=("status of 403",)) as (page, _):
        log_in(page, site, "abel")
        answer = page.goto("/import/")
        assert answer is not None
        assert answer.status == 403


def test_the_page_of_a_job_survives_a_lost_connection(site: Site) -> None:
    with open_browser(site.url, expected=("Failed to load resource", "htmx:")) as (page, _):
        log_in(page, site, "bela")
        code = (
            "from registry.models import Job, JobLog; from django.contrib.auth.models import User; "
            "from django.utils import timezone; from datetime import timedelta; "
            "u = User.objects.get(username='bela'); hour = timedelta(hours=1); "
            "job = Job.objects.create(kind='merge', owner=u, status='running', attempts=2, progress=.4, "
            "started_at=timezone.now(), lease_until=timezone.now() + hour); "
            "JobLog.objects.bulk_create(JobLog(job=job, message=f'line {n}') for n in range(60)); print(job.pk)"
        )
        job = site.manage("shell", "--verbosity", "0", "-c", code).split()[-1]
        page.goto(f"/jobs/{job}/")
        expect(page.get_by_role("status").first).to_have_text("running")
        expect(page.get_by_text("Attempt 2 of at most")).to_be_visible()
        log = page.locator("#log")
        assert log.evaluate("list => list.scrollTop + list.clientHeight >= list.scrollHeight - 8")

        # Who reads further up stays there while lines are added.
        log.evaluate("list => list.scrollTop = 40")
        add = f"from registry.models import JobLog; JobLog.objects.create(job_id='{job}', message='one more')"
        site.manage("shell", "--verbosity", "0", "-c", add)
        expect(log).to_contain_text("one more", timeout=20_000)
        assert log.evaluate("list => list.scrollTop") == 40

        page.context.set_offline(True)
        expect(page.locator("#offline")).to_contain_text("keeps trying", timeout=20_000)
        page.context.set_offline(False)
        expect(page.locator("#offline")).to_be_hidden(timeout=20_000)

        page.get_by_text("Cancel", exact=True).press("Enter")
        page.get_by_role("button", name="Yes, cancel this job").press("Enter")
        expect(page.get_by_role("status").first).to_have_text("cancelled")
        page.goto("/jobs/?status=cancelled")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_label("Status").select_option("failed")
        expect(page.get_by_role("heading", name="No such jobs")).to_be_visible()
