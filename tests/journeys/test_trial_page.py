"""The trial page on a site of its own with the real base model: examples in, a measured ranking, a download."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.browser import drop_files, open_browser
from tests.journeys.gallery.sites import ZOO
from tests.journeys.server import Site, running_site
from tests.journeys.test_browser import sign_up
from tests.lora.factories import write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

EXPERTS = ("date-format", "addition-2digit")
DATES = "1998-11-06 => 6 November 1998\n2027-09-24 => 24 September 2027\n1904-09-08 => 8 September 1904"
LINE = "Rewrite the ISO date (YYYY-MM-DD) as day, month name and year."
# The base model is unpacked first, which takes a minute on a busy machine.
TRIAL_MS = 900_000
READ = """async ([raw, isCsv]) => (await import("/static/js/trial-examples.js")).readLabelled(raw, { isCsv })"""
# Text → what is read as input and output, and how the sentences about the rest begin.
READINGS = [
    ('{"input":"a","output":"b"}\n{"input":"a"}\n{x => y', [("a", "b"), ("{x", "y")], ["Line 2 has no output"]),
    ('input,output\n"a, b",c\nx,y,z\n"two\nlines","q""q"', [("a, b", "c"), ("two\nlines", 'q"q')], ["Line 3 has 3"]),
    ("output\tinput\nb\ta", [("a", "b")], []),
    ("a\tb\r\n\r\nc → d", [("a", "b"), ("c", "d")], []),
    ('[{"input":"a","output":"b"},{"input":1}]', [("a", "b")], ["Example 2 has no input"]),
    ("x => y => z", [("x => y", "z")], []),
    (" \n", [], []),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two experts of the real base, and one of a base that no worker has."""
    with running_site(tmp_path_factory.mktemp("trials"), SIGNUP="open") as site:
        client = site.client(site.create_token("zoe"))
        folders = [(name, ZOO / name) for name in EXPERTS]
        folders.append(("stranger", write_adapter_files(tmp_path_factory.mktemp("stranger") / "it")))
        for name, folder in folders:
            answer = client.upload(f"zoe/{name}", folder, license="mit")
            assert client.finished(answer.json()["job"], 300)["status"] == "succeeded"
        yield site


def begin(page: Page, examples: str = DATES) -> None:
    page.get_by_label("Examples", exact=True).fill(examples)
    page.get_by_role("button", name="Try them").click()


def test_from_examples_by_keys_alone_to_a_ranking_and_its_download(zoo: Site) -> None:
    with open_browser(zoo.url) as (page, _):
        sign_up(page, "tess")
        page.get_by_role("link", name="Try", exact=True).click()
        page.get_by_label("Examples", exact=True).focus()
        page.keyboard.insert_text(DATES)
        expect(page.locator("#understood caption")).to_have_text("Understood as 3 examples:")
        expect(page.locator("#base-hint")).to_have_text("2 experts, all of which are tried.")
        page.get_by_label("Also search a merge").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#trial .log li").first).to_be_visible(timeout=TRIAL_MS)
        address = page.url
        assert "?job=" in address
        assert "November" not in address
        expect(page.locator(".trial-best h2")).to_have_text("Best: zoe/date-format", timeout=TRIAL_MS)
        # Below the line with which its samples begin, the expert answers all, and the base none.
        told = re.compile(r"3 of 3 answered exactly\. The base model alone answers 0 of 3, and . of 3 with the other")
        expect(page.locator(".trial-best")).to_contain_text(told)
        expect(page.locator(".trial-best code")).to_have_text(LINE)
        expect(page.locator("#announcer")).to_contain_text("Best: zoe/date-format. ")
        rows = page.locator(".trial-table tbody tr")
        assert rows.count() >= 4
        expect(rows.first.locator(".trial-who")).to_contain_text(f"below “{LINE}”")
        expect(rows.first.locator(".trial-measure").first).to_have_text("3 of 3")
        expect(page.locator('tr[data-kind="base"]')).to_contain_text("0 of 3")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download zoe/date-format").click()
        names = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())).namelist()
        assert any(name.endswith("adapter_model.safetensors") for name in names)
        # A reload, and a link from the job's page, show the same ranking; the examples have stayed with the tab alone.
        page.reload()
        expect(page.locator(".trial-best h2")).to_have_text("Best: zoe/date-format")
        expect(page.get_by_label("Examples", exact=True)).to_have_value(DATES)
        page.get_by_role("link", name="Job", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Trying experts on 3 examples")
        page.get_by_role("link", name="Open the ranking").click()
        expect(page.locator(".trial-best h2")).to_have_text("Best: zoe/date-format")
    with open_browser(zoo.url, expected=("the server responded with a status of 404",)) as (page, _):
        sign_up(page, "tom")
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text("There is no such trial that you may see.")


def test_a_worker_without_the_base_says_what_to_do_and_the_examples_stay(zoo: Site) -> None:
    with open_browser(zoo.url) as (page, _):
        sign_up(page, "una")
        page.goto("/trial/")
        page.get_by_label("Base model").select_option("acme/tiny-base")
        expect(page.locator("#base-hint")).to_contain_text("unless one has it, the trial ends with base_not_here")
        begin(page)
        expect(page.get_by_role("alert")).to_contain_text(
            "This worker has no weights of acme/tiny-base", timeout=TRIAL_MS
        )
        expect(page.get_by_role("alert")).to_contain_text("base_not_here")
        expect(page.get_by_label("Examples", exact=True)).to_have_value(DATES)
        expect(page.get_by_role("button", name="Try them")).to_be_enabled()


def test_every_line_that_is_not_understood_is_named_before_anything_is_sent(zoo: Site, tmp_path: Path) -> None:
    with open_browser(zoo.url) as (page, _):
        page.goto("/trial/")
        button = page.get_by_role("button", name="Log in and try them")
        button.click()
        expect(page.locator("#examples-error")).to_contain_text("Give at least one example")
        page.get_by_label("Examples", exact=True).fill("\n1998-11-06 => 6 November\nno answer\n=> no input")
        expect(page.locator("#problems li")).to_have_text(
            [
                "Line 3 has no answer: write the input, =>, and the right answer.",
                "Line 4 has no input: write the input, =>, and the right answer.",
            ]
        )
        button.click()
        expect(page.locator("#examples-error")).to_have_text("2 lines are not understood.")
        table = tmp_path / "dates.csv"
        table.write_text('input,output\n1998-11-06,"6 November, 1998"\n')
        drop_files(page.context, page, "#examples", [table])
        expect(page.get_by_label("Examples", exact=True)).to_have_value("1998-11-06 => 6 November, 1998")
        expect(page.locator("#problems li")).to_have_count(0)
        page.get_by_label("Experts to try").fill("99")
        button.click()
        expect(page.locator("#k-error")).to_have_text("A whole number from 1 to 32.")
        page.get_by_label("Experts to try").fill("3")
        # Who has to log in first finds the examples again.
        button.click()
        page.wait_for_url("**/login/**")
        page.goto("/trial/")
        expect(page.get_by_label("Examples", exact=True)).to_have_value("1998-11-06 => 6 November, 1998")
        expect(page.get_by_label("Experts to try")).to_have_value("3")


def test_what_is_read_as_examples(zoo: Site) -> None:
    with open_browser(zoo.url) as (page, _):
        page.goto("/trial/")
        for raw, pairs, problems in READINGS:
            found = page.evaluate(READ, [raw, False])
            assert [(one["input"], one["output"]) for one in found["examples"]] == pairs, raw
            assert len(found["problems"]) == len(problems), raw
            assert all(text.startswith(begun) for text, begun in zip(found["problems"], problems, strict=True)), raw
        found = page.evaluate(READ, ["a,b\nc,d", True])
        assert [(one["input"], one["output"]) for one in found["examples"]] == [("a", "b"), ("c", "d")]
