"""The main job as a person does it: sign up, upload, retrieve, merge, download."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from safetensors import safe_open

from tests.journeys.browser import drop_files, open_browser
from tests.journeys.server import ROOT, Site
from tests.lora.factories import write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

ZOO = ROOT / "examples" / "zoo"
PASSWORD = "a long enough passphrase"
PROMPT = "Turn the record into JSON with the keys name, age and city.\nInes, aged 24, lives in Delhi"
JOB_MS = 120_000


def sign_up(page: Page, name: str) -> None:
    page.goto("/")
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password confirmation").fill(PASSWORD)
    page.get_by_role("button", name="Create the account").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def wait_for_success(page: Page) -> None:
    """Stay on the page of a job until it says that it has succeeded."""
    expect(page).to_have_url(re.compile("/jobs/"))
    expect(page.get_by_role("status").first).to_have_text("succeeded", timeout=JOB_MS)


def expert_folder(name: str, folder: Path) -> Path:
    """An example expert as a training run leaves it, with files that no registry needs."""
    target = shutil.copytree(ZOO / name, folder / name)
    (target / "optimizer.pt").write_bytes(b"state")
    (target / "checkpoint-100").mkdir()
    (target / "checkpoint-100" / "adapter_config.json").write_text("{}")
    return target


def test_sign_up_upload_retrieve_merge_download(site: Site, tmp_path: Path) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "grace")

        # One expert chosen as a folder, one dropped on the page.
        page.get_by_role("link", name="Upload").first.click()
        page.locator("#folder").set_input_files(expert_folder("record-to-json", tmp_path))
        skipped = page.locator("#skipped")
        expect(skipped).to_contain_text("optimizer.pt training state")
        expect(skipped).to_contain_text("a second adapter")
        expect(page.get_by_label("Name of the expert")).to_have_value("record-to-json")
        page.get_by_role("button", name="Upload", exact=True).click()
        wait_for_success(page)
        page.get_by_role("link", name="Open grace/record-to-json").click()
        expect(page.locator("#adapter-name + .row > .badge.ready")).to_be_visible()
        expect(page.locator("[data-chart] svg")).to_have_count(2)

        page.goto("/upload/")
        drop_files(page.context, page, "#drop", [expert_folder("language-id", tmp_path)])
        expect(page.locator("#chosen")).to_contain_text("samples.jsonl")
        page.get_by_label("Private").check()
        page.get_by_role("button", name="Upload", exact=True).click()
        wait_for_success(page)

        # A prompt on the first page finds them; the owner's private one among them.
        page.goto("/")
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Find experts").click()
        page.get_by_label("How many").fill("100")
        page.get_by_role("button", name="Find experts").click()
        # The first question of a process loads the encoder. Another test's owner may have the same expert here: a tie.
        expect(page.locator("#matches > li").first).to_contain_text("/record-to-json", timeout=60_000)
        expect(page.locator("#matches details").first).to_contain_text("Turn the record into JSON")
        page.get_by_label("Merge grace/record-to-json").check()
        page.get_by_label("Merge grace/language-id").check()
        page.get_by_role("link", name="Merge these").click()

        # The merge form has them with their weights.
        expect(page.get_by_label("Expert").first).to_have_value("grace/record-to-json")
        assert 0 < float(page.get_by_label("Weight").first.input_value()) <= 1
        page.get_by_label("Method").select_option("ties")
        page.get_by_label("Name of the merge").fill("json-and-language")
        page.get_by_label("Private").check()
        page.get_by_text("Copy as curl or Python").click()
        expect(page.locator("#snippets")).to_contain_text('"adapter": "grace/language-id"')
        page.get_by_role("button", name="Merge", exact=True).click()
        wait_for_success(page)

        with page.expect_download() as download:
            page.get_by_role("link", name="Download the merge").click()
        check_archive(download.value.path(), tmp_path)
        page.get_by_role("link", name="Report").click()
        expect(page.get_by_text("of the energy")).to_be_visible()
        expect(page.locator("[data-chart] svg")).to_have_count(3)
        page.get_by_role("link", name="Open the expert").click()
        page.get_by_text("As a list").click()
        expect(page.get_by_role("heading", name="Merged from")).to_be_visible()


def check_archive(path: Path, folder: Path) -> None:
    """A PEFT folder whose scale is 1, with finite weights."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "merged")
    config = json.loads((folder / "merged" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8
    with safe_open(folder / "merged" / "adapter_model.safetensors", framework="pt") as tensors:
        assert len(tensors.keys()) == 240
        assert all(tensors.get_tensor(name).isfinite().all() for name in tensors.keys())  # noqa: SIM118


def test_refusals_stand_beside_what_they_are_about(site: Site, tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path / "small")
    expected = ("the server responded with a status of 4",)
    with open_browser(site.url, expected=expected) as (page, _):
        sign_up(page, "hedy")
        page.goto("/upload/")
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("adapter_model.safetensors")

        # The server's words, beside the field of the name.
        page.locator("#files").set_input_files(list(folder.iterdir()))
        page.get_by_label("Name of the expert").fill("not--good")
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("#adapter-error")).to_contain_text("not a valid adapter name")

        # Every problem of a damaged file is listed.
        (folder / "adapter_model.safetensors").write_bytes(b"\x80\x02pickled")
        page.locator("#files").set_input_files(folder / "adapter_model.safetensors")
        page.get_by_label("Name of the expert").fill("good")
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.get_by_role("alert").locator("li code").first).to_have_text("pickle")

        page.goto("/retrieve/")
        page.get_by_role("button", name="Find experts").click()
        expect(page.locator("#text-error")).to_be_visible()

        page.goto("/merge/?input=hedy/none:1&input=hedy/none:1")
        page.get_by_label("Name of the merge").fill("both")
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.locator("p.error, [role=alert]").first).to_contain_text("hedy/none")
