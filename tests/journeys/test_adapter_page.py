"""The page of an adapter in a browser, and the code on it run as it stands."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.journeys.browser import open_browser
from tests.journeys.server import Client, Site
from tests.lora.factories import write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

# The modules of `tests.lora.factories.MODULES` are those of this model.
TINY = LlamaConfig(
    vocab_size=8,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@dataclass
class Owner:
    """Somebody with the experts `page`, which has two revisions, and `other`."""

    name: str
    client: Client
    folder: Path

    def upload(self, name: str, sample: str, **options: Any) -> None:
        folder = write_adapter_files(self.folder / f"{name}-{options}", **options)
        self.client.upload_ready(f"{self.name}/{name}", folder, samples=[sample])


OWNERS = count(1)


@pytest.fixture
def lin(site: Site, tmp_path: Path) -> Owner:
    name = f"lin-{next(OWNERS)}"
    owner = Owner(name, site.client(site.create_token(name)), tmp_path)
    owner.upload("page", "Name the capital of Peru.", seed=1)
    owner.upload("page", "Name a river.", seed=2, rank=2)
    owner.upload("other", "Name a mountain.", seed=3)
    return owner


def log_in(site: Site, page: Page, name: str) -> None:
    code = f"from django.contrib.auth.models import User; u = User.objects.get(username='{name}')"
    site.manage("shell", "-c", f"{code}; u.set_password('a long enough passphrase'); u.save()")
    page.goto(f"/login/?next=/adapters/{name}/page/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("a long enough passphrase")
    page.get_by_role("button", name="Log in").click()


def test_the_page_is_read_edited_and_yanked(site: Site, lin: Owner) -> None:
    with open_browser(site.url) as (page, _):
        log_in(site, page, lin.name)
        expect(page.locator("[data-chart] svg")).to_have_count(2)

        # A table that a refresh takes away while its size is watched is no error (the browser's watch would see it).
        page.evaluate("document.querySelector('.scroll > *').remove()")

        # Tabs: one stop, arrows move.
        tab = page.get_by_role("tab", name="PEFT")
        expect(tab).to_have_attribute("aria-selected", "true")
        tab.press("ArrowRight")
        expect(page.get_by_role("tab", name="vLLM")).to_be_focused()
        expect(page.locator("#use-vllm")).to_contain_text("--max-lora-rank 8")
        expect(page.locator("#use-peft")).to_be_hidden()

        # What comes after the page: similar experts, the table of modules.
        expect(page.locator("#similar")).to_contain_text(f"{lin.name}/other", timeout=60_000)
        page.get_by_role("button", name="by weights").click()
        expect(page.locator("#similar")).to_contain_text("Arrow")
        page.locator("details", has=page.locator("#modules-table")).locator("summary").click()
        expect(page.locator("#modules-table tbody tr")).to_have_count(4)
        page.get_by_text("What changed against").click()
        expect(page.locator(".changes")).to_contain_text("Rank")

        # Charts follow the scheme while the page is open.
        before = page.locator("[data-chart=spectrum] svg").inner_html()
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "before => document.querySelector('[data-chart=spectrum] svg').innerHTML !== before", arg=before
        )

        page.get_by_text("Edit what is said about it").click()
        page.get_by_label("Description").fill("Rivers, mostly")
        page.get_by_label("Tags").fill("geo, rivers")
        page.get_by_label("Others may read the sample texts").uncheck()
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".lead")).to_have_text("Rivers, mostly")
        assert lin.client.get(f"/adapters/{lin.name}/page/").json()["samples_public"] is False

        page.locator("#owner-tools").get_by_text("Yank", exact=True).first.click()
        page.get_by_label("to confirm").fill(f"{lin.name}/other")
        page.get_by_role("button", name="Yank").click()
        expect(page.locator("#yank-form .error")).to_contain_text("not the name")
        page.get_by_label("to confirm").fill(f"{lin.name}/page")
        page.get_by_role("button", name="Yank").click()
        expect(page.get_by_text("Yanked.")).to_be_visible()


def test_samples_are_replaced_and_the_map_is_walked(site: Site, lin: Owner, tmp_path: Path) -> None:
    lines = tmp_path / "new.jsonl"
    lines.write_text(json.dumps({"input": "Name a lake."}) + "\n")
    with open_browser(site.url, expected=("the server responded with a status of 4",)) as (page, _):
        log_in(site, page, lin.name)
        page.goto(f"/adapters/{lin.name}/other/")
        page.get_by_text("Replace the samples").click()
        page.get_by_label("samples.jsonl", exact=True).set_input_files(
            {"name": "x.jsonl", "mimeType": "text/plain", "buffer": b"no json"}
        )
        page.get_by_role("button", name="Replace").click()
        expect(page.locator("#samples-form")).to_contain_text("line 1 is not JSON")
        page.get_by_label("samples.jsonl", exact=True).set_input_files(lines)
        page.get_by_role("button", name="Replace").click()
        expect(page).to_have_url(re.compile("/jobs/"))
        expect(page.get_by_text("succeeded").first).to_be_visible(timeout=120_000)
        page.goto(f"/adapters/{lin.name}/other/")
        expect(page.locator(".sample").first).to_contain_text("Name a lake.")

        lin.upload("third", "Name a sea.", seed=4)
        page.goto("/")
        page.get_by_label("by owner").check()
        page.locator("#map").press("ArrowRight")
        first = page.locator("#map-says").inner_text()
        page.locator("#map").press("ArrowRight")
        expect(page.locator("#map-says")).not_to_have_text(first)
        page.locator("#map").press("Enter")
        expect(page.locator("h1")).to_contain_text("/")
        expect(page).to_have_url(re.compile("/adapters/[^/]+/[^/]+/$"))


def test_the_code_runs_as_it_stands(site: Site, lin: Owner, tmp_path: Path) -> None:
    lin.client.request("PATCH", f"/adapters/{lin.name}/other/", json={"visibility": "private"})
    with open_browser(site.url) as (page, _):
        log_in(site, page, lin.name)
        page.goto(f"/adapters/{lin.name}/other/")
        codes = {
            title: page.locator("#use-transformers, #use-curl")
            .filter(has_text=title)
            .locator("code")
            .all_text_contents()
            for title in ("Fold it into the base", "Check the weights")
        }
    fetch, fold = codes["Fold it into the base"]
    _, check, config = codes["Check the weights"]
    place = tmp_path / "place"
    save_base(place / "acme" / "tiny-base")
    env = site.env | {"LORADEX_TOKEN": lin.client.token or ""}
    for shell in (fetch, check, config):
        subprocess.run(["bash", "-euc", shell], cwd=place, env=env, check=True, capture_output=True, timeout=120)
    assert json.loads((place / "adapter_config.json").read_text())["r"] == 4
    command = [sys.executable, "-W", "ignore", "-c", fold]
    subprocess.run(command, cwd=place, env=env | {"HF_HUB_OFFLINE": "1"}, check=True, capture_output=True, timeout=300)
    assert (place / "other-merged" / "model.safetensors").stat().st_size > 0


def save_base(folder: Path) -> None:
    """The base model where transformers finds it under its name: in a folder of that name."""
    LlamaForCausalLM(TINY).save_pretrained(folder)
    words = {"[UNK]": 0} | {f"w{number}": number for number in range(1, 8)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "[UNK]")), unk_token="[UNK]").save_pretrained(
        folder
    )
