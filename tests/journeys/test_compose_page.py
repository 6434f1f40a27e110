"""The pages of compositions on a site of its own with a tiny base model: experts in, trained gates out, and away."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from tests.journeys.browser import open_browser
from tests.journeys.server import Site, running_site
from tests.journeys.test_browser import sign_up, wait_for_success
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, UNLABELLED, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

pytestmark = [pytest.mark.journey, pytest.mark.browser]

EXPERTS = ("cy/one", "cy/two", "cy/unlabelled")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three experts of a base that the worker has, of which one shows no answers, and one of another base."""
    bases, files = tmp_path_factory.mktemp("bases"), tmp_path_factory.mktemp("experts")
    config = save_tiny_llama(bases / BASE) / "config.json"
    with running_site(tmp_path_factory.mktemp("composing"), SIGNUP="open", BASE_MODELS_DIR=str(bases)) as site:
        site.manage("add_base_model", BASE, "--config", str(config))
        client = site.client(site.create_token("cy"))
        named = {"base_model_name_or_path": BASE}
        for seed, name in enumerate(EXPERTS):
            folder = write_adapter_files(files / name, MODULES, 2, 3, seed=seed, config_overrides=named)
            (folder / "samples.jsonl").write_bytes(UNLABELLED if "unlabelled" in name else SAMPLES)
            client.upload_ready(name, folder, license="mit")
        client.upload_ready("cy/stranger", write_adapter_files(files / "stranger"), license="mit")
        yield site


def name_experts(page: Page, *names: str) -> None:
    for place, name in enumerate(names):
        if place == page.get_by_role("combobox", name="Expert").count():
            page.get_by_role("button", name="Add an expert").click()
        page.get_by_role("combobox", name="Expert").nth(place).fill(name)
        page.keyboard.press("Tab")


def test_from_two_experts_by_keys_to_trained_gates_their_archive_and_their_end(tiny: Site) -> None:
    with open_browser(tiny.url) as (page, _):
        sign_up(page, "cora")
        page.get_by_role("link", name="Compositions", exact=True).click()
        expect(page.get_by_role("heading", name="There is no composition yet")).to_be_visible()
        page.get_by_role("link", name="Make the first one").focus()
        page.keyboard.press("Enter")
        field = page.get_by_role("combobox", name="Expert").first
        field.press_sequentially("cy/one")
        expect(page.get_by_role("option", name="cy/one")).to_be_visible()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        name_experts(page, "cy/one", "cy/two")
        expect(page.locator("#expert-count")).to_have_text("2")
        page.get_by_label("Steps").fill("4")
        page.get_by_label("Name of the composition").fill("both")
        page.keyboard.press("Enter")
        wait_for_success(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Training gates for cora/both")
        expect(page.get_by_role("img", name=re.compile("Loss by step"))).to_be_visible()
        page.get_by_role("link", name="Open cora/both").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("cora/both")
        expect(page.get_by_text("w = softmax(W·x) + b")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("weight"))).to_contain_text("2 × 8")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        names = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())).namelist()
        assert any(name.endswith("composition.py") for name in names)
        # From the expert, and by the list, one comes back to it; then its owner takes it away.
        page.get_by_role("link", name="cy/two").click()
        page.get_by_role("region", name="In compositions").get_by_role("link", name="cora/both").click()
        page.get_by_text("Delete", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Yes, delete it").click()
        expect(page.get_by_role("status").first).to_contain_text("cora/both is deleted")
        expect(page.get_by_role("heading", name="There is no composition yet")).to_be_visible()


def test_what_stands_in_the_way_is_said_beside_the_expert_and_the_choices_stay(tiny: Site) -> None:
    with open_browser(tiny.url, expected=("the server responded with a status of 422",)) as (page, _):
        page.goto("/compositions/new/?input=cy/one&input=cy/unlabelled&name=dee/mine&steps=3")
        page.get_by_role("button", name="Log in and train the gates").click()
        page.wait_for_url("**/login/**")
        sign_up(page, "dee")
        page.goto("/compositions/new/?input=cy/one&input=cy/unlabelled&name=dee/mine&steps=3")
        expect(page.get_by_label("Name of the composition")).to_have_value("mine")
        expect(page.get_by_label("Steps")).to_have_value("3")
        page.get_by_label("Steps").fill("5000")
        page.get_by_role("button", name="Train the gates").click()
        expect(page.get_by_text("A whole number from 1 to 1000.")).to_be_visible()
        page.get_by_label("Steps").fill("3")
        page.get_by_role("button", name="Train the gates").click()
        expect(page.get_by_role("combobox", name="Expert").nth(1)).to_be_focused()
        expect(page.get_by_text("It has no samples with outputs, which the gates learn from.")).to_be_visible()
        name_experts(page, "cy/one", "cy/stranger")
        page.get_by_role("button", name="Train the gates").click()
        expect(page.get_by_text(re.compile(f"It was trained on acme/tiny-base.* {BASE}"))).to_be_visible()
        page.reload()
        expect(page.get_by_role("combobox", name="Expert").nth(1)).to_have_value("cy/stranger")


def test_gates_are_uploaded_and_what_is_wrong_with_them_is_named(tiny: Site, tmp_path: Path) -> None:
    with open_browser(tiny.url, expected=("the server responded with a status of 422",)) as (page, _):
        sign_up(page, "eva")
        page.goto("/compositions/new/?way=upload&type=meteora&input=cy/one&input=cy/two")
        expect(page.get_by_role("radio", name="Upload a file")).to_be_checked()
        expect(page.locator("#gates-hint")).to_contain_text("weight (n, d)")
        page.get_by_role("button", name="Upload the gates").click()
        expect(page.locator("#gates-error")).to_have_text("Choose the file with the gates.")
        page.get_by_label("Name of the composition").fill("own")
        page.get_by_label("top_k").fill("1")
        for width, ending in ((7, "It reads 7 values"), (8, None)):
            save_file(
                {f"model.layers.{i}.weight": torch.ones(2, width) for i in (0, 1)}, tmp_path / "gates.safetensors"
            )
            page.get_by_label("gates.safetensors").set_input_files(tmp_path / "gates.safetensors")
            page.get_by_role("button", name="Upload the gates").click()
            if ending:
                expect(page.get_by_role("alert").filter(has_text=ending)).to_contain_text("gate_shape")
        expect(page.get_by_role("heading", level=1)).to_have_text("eva/own")
        made = tiny.client().get("/compositions/eva/own/").json()
        assert (made["type"], made["params"]) == ("meteora", {"top_k": 1})
        assert made["training"] is None
