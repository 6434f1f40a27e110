"""The retrieval page: questions in the address, reasons for matches, code that gives the same answer, keys alone."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.journeys.browser import open_browser
from tests.journeys.code_snippets import run_copied
from tests.journeys.server import Site
from tests.lora.factories import write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

CAPITALS = ["Name the capital of Peru.", "Which city is the capital of Chad?"]
RIVERS = ["Which river flows through Cairo?", "Name the longest river of Europe."]
SUMS = ["Do the sum.\nWhat is 12 plus 30?", "Do the sum.\nAdd 7 and 8."]
QUESTION = "What is the capital of Chile?"
FAR = "Дождь закончился к вечеру, и дети вышли во двор."
# The first job of a worker and the first question of a web process load the encoder.
JOB_S = 300
FIRST_MS = 90_000


@pytest.fixture(scope="module")
def experts(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three experts of the owner `retta`. Returns: her token."""
    token = site.create_token("retta")
    client = site.client(token)
    folder = tmp_path_factory.mktemp("retta")
    other: dict[str, Any] = {"config_overrides": {"base_model_name_or_path": "acme/other-base"}}
    for seed, (name, samples) in enumerate({"capitals": CAPITALS, "rivers": RIVERS, "sums": SUMS}.items()):
        made = write_adapter_files(folder / name, seed=seed, **(other if name == "sums" else {}))
        answer = client.upload(f"retta/{name}", made, samples=samples, license="mit")
        assert client.finished(answer.json()["job"], JOB_S)["status"] == "succeeded"
    return token


def ask(page: Page, question: str = QUESTION) -> None:
    page.get_by_label("Prompt", exact=True).fill(question)
    page.get_by_role("button", name="Find experts").click()


def names(page: Page) -> list[str]:
    expect(page.locator("#matches > li").first).to_be_visible(timeout=FIRST_MS)
    return page.locator("#matches h3").all_text_contents()


def test_what_is_typed_before_the_page_is_ready_stays(site: Site) -> None:
    with open_browser(site.url) as (page, _):
        held: list[Route] = []
        page.route("**/api/v1/methods/", lambda route: held.insert(0, route))
        with page.expect_request("**/api/v1/methods/"):
            page.goto("/retrieve/")
        prompt = page.get_by_label("Prompt", exact=True)
        prompt.fill(QUESTION)
        held[0].continue_()
        expect(page.get_by_role("button", name="Find experts")).to_be_enabled(timeout=60_000)
        expect(prompt).to_have_value(QUESTION)


def test_a_question_is_in_the_address_and_comes_back(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&router=lora_retriever&k=2&param.min_score=0.1")
        ask(page)
        first = names(page)
        assert first[0] == "retta/capitals"
        expect(page.locator("#matches .why").first).to_contain_text("Its samples are closest: cosine 0.")
        expect(page.locator("#matches .match-facts").first).to_contain_text("acme/tiny-base · rank 4 · mit")
        expect(page.locator("#matches mark").first).to_have_text("capital")
        address = page.url
        query = parse_qs(urlsplit(address).query)
        asked = {"text": [QUESTION], "router": ["lora_retriever"], "owner": ["retta"], "k": ["2"]}
        assert query == asked | {"param.min_score": ["0.1"]}

        ask(page, "Which river flows through Paris?")
        expect(page.locator("#matches h3").first).to_have_text("retta/rivers")
        page.go_back()
        expect(page.locator("#matches h3").first).to_have_text("retta/capitals")
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(QUESTION)

        page.goto("/")
        page.goto(address)
        assert names(page) == first
        expect(page.get_by_label("min_score")).to_have_value("0.1")


def test_the_line_with_which_samples_begin_is_told_where_it_is_left_out(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&router=lora_retriever")
        ask(page, "What is 9 plus 4?")
        assert names(page)[0] == "retta/sums"
        lines = page.get_by_text("Ask it below the line")
        expect(lines).to_have_text("Ask it below the line with which its samples begin: Do the sum.")
        ask(page, "Do the sum.\nWhat is 9 plus 4?")
        expect(lines).to_have_count(0)


def test_who_names_no_router_is_told_how_likely_each_expert_is(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta")
        ask(page)
        assert names(page)[0] == "retta/capitals"
        expect(page.locator("#matches .why").first).to_contain_text("The text is likeliest under it: probability ")
        expect(page.locator(".decision")).to_contain_text("The right expert is here")
        expect(page.locator(".footnote")).to_contain_text("hybrid in hybrid-")

        ask(page, FAR)
        expect(page.get_by_role("heading", name="No expert is close enough")).to_be_visible()
        expect(page.locator("#results")).to_contain_text("unlike what these experts were made for")
        page.get_by_role("button", name="Show the nearest anyway").click()
        assert len(names(page)) == 3
        assert parse_qs(urlsplit(page.url).query)["param.abstain"] == ["false"]


def test_a_question_too_long_for_an_address_stays_with_the_tab(site: Site, experts: str) -> None:
    long = QUESTION + " Please." * 1000
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta")
        ask(page, long)
        names(page)
        expect(page.locator("#too-long")).to_be_visible()
        assert len(page.url) < 200
        page.reload()
        names(page)
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(long)
        expect(page.get_by_label("Owners")).to_have_value("retta")


def test_the_copied_code_gives_the_answer_on_the_page(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&router=lora_retriever&k=3")
        ask(page, 'It\'s "quoted", $HOME and `ls`\n\\ JSON: what is the capital?')
        shown = names(page)
        scores = page.locator("#matches .measures output").all_text_contents()[::2]
        for answer in run_copied(page):
            matches = answer["results"][0]["matches"]
            assert [match["adapter"] for match in matches] == shown
            assert [f"{match['score']:.3f}" for match in matches] == scores


def test_no_match_says_why_and_what_to_do(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&router=lora_retriever&param.min_score=0.99")
        ask(page)
        expect(page.get_by_role("heading", name="No expert is close enough")).to_be_visible(timeout=FIRST_MS)
        page.get_by_role("button", name="Show the nearest anyway").click()
        assert names(page)[0] == "retta/capitals"
        assert "min_score" not in page.url

        page.goto("/retrieve/?tag=no-such-tag")
        ask(page)
        expect(page.get_by_text("what your filters ask for")).to_be_visible()
        page.get_by_role("button", name="Remove the filters").click()
        names(page)

        # What the schema refuses is said before anything is sent.
        page.get_by_label("temperature").fill("0")
        expect(page.locator("#param-temperature-error")).to_have_text("It must be above 0.")


def test_several_prompts_and_examples(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&k=1")
        page.get_by_label("By several prompts").check()
        page.get_by_label("Prompts", exact=True).fill(f"{QUESTION}\n\nWhat is 4 plus 4?")
        page.get_by_role("button", name="Find experts").click()
        expect(page.locator(".tally tbody tr")).to_have_count(2, timeout=FIRST_MS)
        page.locator(".prompt-result").nth(1).locator("summary").first.click()
        expect(page.locator(".prompt-result").nth(1).locator("h3")).to_have_text("retta/sums")
        assert parse_qs(urlsplit(page.url).query)["texts"] == [QUESTION, "What is 4 plus 4?"]
        page.get_by_label("Merge retta/capitals").first.check()
        page.get_by_label("Merge retta/sums").first.check()
        expect(page.locator("#merge-bar")).to_contain_text("different base models")

        page.get_by_label("By examples of a task").check()
        page.get_by_label("Examples", exact=True).fill('What is 1 plus 1?\n{"input": "Add 2 and 3.", "output": "5"}')
        page.get_by_role("button", name="Find experts").click()
        assert names(page) == ["retta/sums"]


def test_the_form_shows_what_the_router_takes(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta")
        expect(page.get_by_label("By examples of a task")).to_be_visible()
        page.get_by_label("By examples of a task").check()
        page.get_by_label("Examples", exact=True).fill(QUESTION)
        page.get_by_label("Router", exact=True).select_option("token_level")
        expect(page.get_by_label("By examples of a task")).to_be_hidden()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(QUESTION)
        expect(page.locator("#router-when")).to_contain_text("While a text is generated")

        # One that runs the base model is told which, by an account.
        page.get_by_label("Router", exact=True).select_option("arrow_global")
        expect(page.get_by_label("Like an expert")).to_be_hidden()
        page.get_by_label("Base model").select_option("")
        page.get_by_role("button", name="Find experts").click()
        expect(page.locator("#base_model-error")).to_contain_text("choose it")
        page.get_by_label("Base model").select_option("acme/tiny-base")
        page.get_by_role("button", name="Find experts").click()
        page.get_by_role("link", name="Log in and ask").click()
        assert "router=arrow_global" in parse_qs(urlsplit(page.url).query)["next"][0]

        page.goto("/retrieve/?owner=retta&adapter=retta/capitals")
        assert sorted(names(page)) == ["retta/rivers", "retta/sums"]
        page.locator(".map[data-drawn]").wait_for()


def test_keys_alone_lead_from_a_prompt_to_the_merge_form(site: Site, experts: str) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/retrieve/?owner=retta&base_model=acme/tiny-base")
        page.get_by_label("Prompt", exact=True).focus()
        page.keyboard.type(QUESTION)
        page.keyboard.press("Control+Enter")
        names(page)
        expect(page.locator("#announcer")).to_contain_text("2 experts found. Best: retta/capitals.")
        page.get_by_role("link", name="Merge all 2").focus()
        page.keyboard.press("Tab")
        expect(page.get_by_label("Merge retta/capitals")).to_be_focused()
        page.keyboard.press("Space")
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Merge retta/rivers":
                break
        page.keyboard.press("Space")
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Merge these 2":
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/merge/**")
        expect(page.get_by_label("Expert").first).to_have_value("retta/capitals")


def test_a_lost_connection_offers_another_try(site: Site, experts: str) -> None:
    with open_browser(site.url, expected=("Failed to load resource", "net::ERR")) as (page, _):
        page.goto("/retrieve/?owner=retta")
        page.route("**/api/v1/retrieve/", lambda route: route.abort())
        ask(page)
        expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
        page.unroute("**/api/v1/retrieve/")
        page.get_by_role("button", name="Try again").click()
        names(page)
