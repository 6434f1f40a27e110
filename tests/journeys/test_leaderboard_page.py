"""From a suite of one's own to the leaderboard: the command, the page, its order, its files."""

import csv
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.browser import open_browser
from tests.journeys.server import Site

pytestmark = [pytest.mark.journey, pytest.mark.browser]

TASKS = {
    "capitals": ["Name the capital of Peru.", "Which city is the capital of Chad?", "What is the capital of Chile?"],
    "sums": ["What is 12 plus 30?", "Add 7 and 8.", "How much is 4 plus 5?"],
    "rivers": ["Which river flows through Cairo?", "Name the longest river of Europe.", "Where does the Rhine end?"],
}


@pytest.fixture(scope="module")
def table(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command prints for a suite of three tasks, the last input of each being the query."""
    folder = tmp_path_factory.mktemp("suites") / "three tasks"
    folder.mkdir()
    (folder / "tasks.jsonl").write_text("\n".join(json.dumps({"task": task}) for task in TASKS))
    rows = [
        {"task": task, "input": text, "split": "query" if text == texts[-1] else "sample"}
        for task, texts in TASKS.items()
        for text in texts
    ]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return site.manage("evaluate", "--suite", str(folder), "--routers", "lora_retriever", "airoboros")


def subjects(page: Page) -> list[str]:
    return page.locator("table[data-sortable] tbody th code").all_text_contents()


def test_what_the_command_measures_is_on_the_page(site: Site, table: str, tmp_path: Path) -> None:
    assert "| `lora_retriever` | 100.0 |" in table
    with open_browser(site.url) as (page, _):
        page.goto("/")
        page.get_by_role("link", name="Leaderboard").click()
        expect(page.get_by_role("heading", name="three tasks")).to_be_visible()
        first = subjects(page)
        assert sorted(first) == ["airoboros", "lora_retriever"]
        head = page.get_by_role("columnheader", name="Router")
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "ascending")
        assert subjects(page) == ["airoboros", "lora_retriever"]
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        assert subjects(page) == ["lora_retriever", "airoboros"]
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        download.value.save_as(tmp_path / "leaderboard.csv")
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["suite"] for row in rows} == {"three tasks"}
    (board,) = site.client().get("/leaderboard/?suite=three tasks").json()["results"]
    assert {row["subject"] for row in board["rows"]} == {"lora_retriever", "airoboros"}


def test_the_picker_puts_the_best_measured_first(site: Site, table: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/leaderboard/")
        page.get_by_role("link", name="Methods").click()
        page.get_by_label("sample inputs of the experts or of the task").check()
        page.get_by_role("button", name="Show what applies").click()
        expect(page.get_by_role("heading", name="LoraRetriever")).to_be_visible()
        measured = page.locator(".measured").first
        expect(measured).to_contain_text("top-1 on three tasks")
        expect(measured).to_contain_text("1.000")
        expect(page.get_by_role("heading", name="LoraHub")).to_have_count(0)
