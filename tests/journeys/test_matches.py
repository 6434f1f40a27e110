"""What is done with the matches of the retrieval page: experts are bundled, and judged."""

import io
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.journeys.browser import open_browser
from tests.journeys.server import Site
from tests.journeys.test_browser import sign_up
from tests.journeys.test_retrieve_page import FIRST_MS, ask, experts, names  # noqa: F401 - a fixture

pytestmark = [pytest.mark.journey, pytest.mark.browser]


def test_what_is_ticked_becomes_a_bundle(site: Site, experts: str) -> None:  # noqa: F811
    with open_browser(site.url, expected=("422 (Unprocessable", "409 (Conflict)")) as (page, _):
        sign_up(page, "bundler")
        page.goto("/retrieve/?owner=retta&base_model=acme/tiny-base")
        ask(page)
        names(page)
        for box in page.locator("#matches input[type=checkbox]").all():
            box.check()
        page.get_by_role("link", name="Bundle these 2").click()
        expect(page.get_by_label("Arrow", exact=True)).to_be_checked()
        rows = page.locator("#experts > li")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("acme/tiny-base · rank")

        # What is missing stands beside the expert, with what computes it; why it cannot be, too.
        page.get_by_label("PHATGOOSE", exact=True).check()
        page.get_by_role("button", name="Make the bundle").click()
        train = page.get_by_role("button", name="Train its gates")
        expect(train).to_have_count(2)
        expect(train.first).to_be_focused()
        expect(rows.first).to_contain_text("It has no trained gates.")
        page.keyboard.press("Enter")
        expect(rows.first).to_contain_text("It has no samples with outputs")

        page.get_by_label("SpectR", exact=True).check()
        expect(page.locator("#experts .error")).to_have_count(0)
        page.get_by_label("top_k").fill("1")
        page.get_by_role("button", name="Make the bundle").click()
        expect(page.get_by_role("heading", name="The bundle is ready")).to_be_focused(timeout=FIRST_MS)
        expect(page.locator("#result")).to_contain_text("2 experts of acme/tiny-base, routed by SpectR (top_k 1")
        address = page.url
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        files = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())).namelist()
        assert {"bundle.py", "manifest.json"} <= set(files)
        page.goto("/")
        page.goto(address)
        expect(page.get_by_role("heading", name="The bundle is ready")).to_be_visible()
        expect(page.get_by_label("top_k")).to_have_value("1")


def test_who_is_logged_in_says_how_an_expert_did_and_ranks_follow(site: Site, experts: str) -> None:  # noqa: F811
    with open_browser(site.url) as (page, _):
        sign_up(page, "judge")
        page.goto("/retrieve/?owner=retta&router=lora_retriever&text=What+is+the+capital+of+Chile%3F")
        found = names(page)
        good, bad = (page.get_by_role("button", name=f"{word}: {found[0]} on this prompt") for word in ("Good", "Bad"))
        good.click()
        expect(good).to_have_attribute("aria-pressed", "true")
        bad.press("Enter")
        expect(bad).to_have_attribute("aria-pressed", "true")
        expect(good).to_have_attribute("aria-pressed", "false")
        [own] = page.request.get("/api/v1/outcomes/?own=true").json()["results"]
        assert (own["adapter"], own["score"], own["text"]) == (found[0], 0, "What is the capital of Chile?")
        address = page.url
        page.goto(f"{address}&outcomes=true")
        names(page)
        expect(page.locator("#matches > li", has_text=found[0])).to_contain_text(
            "1 outcome near this shifted its score"
        )

        page.goto(address)
        names(page)
        bad.click()
        expect(bad).to_have_attribute("aria-pressed", "true")
        bad.click()
        expect(page.locator(".judgement").first).to_contain_text("Taken back.")
        assert page.request.get("/api/v1/outcomes/?own=true").json()["count"] == 0

        # Each of several prompts has its own.
        page.goto("/retrieve/?owner=retta&router=lora_retriever&texts=Capital+of+Peru%3F&texts=Add+1+and+2.")
        page.locator(".prompt-result summary").nth(1).click(timeout=FIRST_MS)
        page.locator(".prompt-result").nth(1).get_by_role("button", name="Good: retta/sums on this prompt").click()
        expect(page.locator(".prompt-result").nth(1)).to_contain_text("Kept as an outcome")
        [own] = page.request.get("/api/v1/outcomes/?own=true").json()["results"]
        assert own["text"] == "Add 1 and 2."
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&router=lora_retriever&text=What+is+the+capital+of+Chile%3F")
        names(page)
        expect(page.locator(".judgement")).to_have_count(0)
