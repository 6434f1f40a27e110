"""The merge form: checked while one types, every choice in the address, code that asks for the same merge."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.journeys.browser import open_browser
from tests.journeys.code_snippets import run_copied
from tests.journeys.server import Site
from tests.journeys.test_browser import PASSWORD, sign_up, wait_for_success
from tests.lora.factories import write_adapter_files

pytestmark = [pytest.mark.journey, pytest.mark.browser]

JOB_S = 300
SAMPLES = ["Name the capital of Peru.", "Which city is the capital of Chad?"]


@pytest.fixture(scope="module")
def experts(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Four experts of the owner `merle`, one of them of another base."""
    client = site.client(site.create_token("merle"))
    folder = tmp_path_factory.mktemp("merle")
    for seed, name in enumerate(("one", "two", "three", "other")):
        base = {"base_model_name_or_path": "acme/other-base"} if name == "other" else {}
        made = write_adapter_files(folder / name, seed=seed, rank=2 + 2 * seed, config_overrides=base)
        answer = client.upload(f"merle/{name}", made, samples=SAMPLES, license="mit")
        # The first job of a worker loads the encoder.
        assert client.finished(answer.json()["job"], JOB_S)["status"] == "succeeded"


def verdict(page: Page, text: str) -> None:
    expect(page.locator("#verdict")).to_contain_text(text, timeout=60_000)


def experts_in(page: Page) -> list[str]:
    return [field.input_value() for field in page.get_by_label("Expert", exact=True).all()]


def test_every_choice_is_in_the_address(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "ursula")
        page.goto("/merge/?input=merle/one:0.25&input=merle/two")
        page.get_by_label("Method", exact=True).select_option("ties")
        page.get_by_label("density").fill("0.5")
        page.get_by_label("Weight", exact=True).nth(1).fill("0.75")
        page.get_by_role("button", name="Pin the revisions").click(timeout=60_000)
        page.get_by_label("Rank", exact=True).select_option("fixed")
        page.get_by_label("Rank of the file").fill("3")
        page.get_by_label("Data type").select_option("float16")
        page.get_by_label("Name of the merge").fill("both")
        page.get_by_label("Private").check()
        verdict(page, "Ready: 2 experts of acme/tiny-base become one of rank 3.")
        asked = page.locator("#snippets pre code").first.text_content()
        assert '"density": 0.5' in asked
        address = page.url
        page.goto("/")
        page.goto(address)
        verdict(page, "Ready")
        assert page.locator("#snippets pre code").first.text_content() == asked
        assert page.url == address


def test_problems_stand_beside_what_causes_them(site: Site, experts: None) -> None:
    with open_browser(site.url, expected=("the server responded with a status of 4",)) as (page, _):
        sign_up(page, "vera")
        inputs = "&".join(f"input=merle/{name}" for name in ("one", "other", "none", "one"))
        page.goto(f"/merge/?{inputs}&method=ties&param.density=3&rank=fixed:0")
        verdict(page, "in the way, each shown beside its cause.")
        rows = page.locator("#inputs > li")
        expect(rows.nth(1)).to_contain_text("Only adapters of one base model can be merged")
        expect(rows.nth(2)).to_contain_text("There is no adapter 'merle/none' that you may see.")
        expect(rows.nth(3)).to_contain_text("The same adapter and revision twice")
        expect(page.locator("#param-density-error")).to_contain_text("at most 1")
        expect(page.locator("#rank_value-error")).to_contain_text("whole number")
        with page.expect_response("**/merges/preview/", timeout=60_000):
            page.get_by_role("button", name="Merge", exact=True).click()
        expect(rows.nth(1)).to_contain_text("Only adapters of one base model can be merged")
        verdict(page, "in the way, each shown beside its cause.")

        for name in ("merle/other", "merle/none", "merle/one"):
            page.get_by_role("button", name=f"Remove {name}").last.click()
        page.get_by_label("density").fill("0.3")
        page.get_by_label("Rank of the file").fill("2")
        verdict(page, "Ready: 1 expert")
        expect(page.locator("p.error:visible")).to_have_count(0)
        page.get_by_label("Name of the merge").fill("not--good")
        expect(page.locator("#output_name-error")).to_be_visible()
        page.get_by_label("Name of the merge").fill("fine")
        expect(page.locator("#name-hint")).to_have_text("vera/fine is free.")


def test_what_keeps_more_is_taken_by_a_press(site: Site, experts: None, tmp_path: Path) -> None:
    client, smol = site.client(site.create_token("merle")), "HuggingFaceTB/SmolLM2-135M-Instruct"
    for seed in (7, 8):
        made = write_adapter_files(tmp_path / str(seed), seed=seed)
        client.upload_ready(f"merle/of-smol-{seed}", made, samples=SAMPLES, base_model=smol)
    with open_browser(site.url) as (page, _):
        page.goto("/merge/?input=merle/one&input=merle/two")
        verdict(page, "Ready: 2 experts of acme/tiny-base")
        expect(page.get_by_role("button", name="Take RegMean")).to_have_count(0)  # nobody has that base
        page.goto("/merge/?input=merle/of-smol-7&input=merle/of-smol-8")
        verdict(page, "Every input has samples, and the base model is here")
        page.get_by_role("button", name="Take RegMean").press("Enter")
        expect(page.get_by_label("Method", exact=True)).to_have_value("regmean")
        expect(page.get_by_label("Method", exact=True)).to_be_focused()
        verdict(page, f"Ready: 2 experts of {smol}")
        expect(page.get_by_role("button", name="Take RegMean")).to_have_count(0)


def test_the_copied_code_asks_for_the_same_merge(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "wanda")
        page.goto("/merge/?input=merle/one:0.5&input=merle/two:0.5&name=wanda/both")
        verdict(page, "Ready")
        by_curl, by_python = run_copied(page, site.create_token("wanda"))
        assert by_curl["merge"]["id"] == by_python["merge"]["id"]
        page.get_by_role("button", name="Merge", exact=True).click()
        wait_for_success(page)
        page.goto(f"/merges/{by_curl['merge']['id']}/")
        expect(page.get_by_role("heading", name="What each parent adds")).to_be_visible()

        # The page of the merge gives its recipe, sorts its modules, and leads back to the form.
        again, _ = run_copied(page, site.create_token("wanda"))
        assert again["merge"]["id"] == by_curl["merge"]["id"]
        page.get_by_text("modules as a table").click()
        page.get_by_role("button", name="Module", exact=True).click()
        page.get_by_role("button", name="Module", exact=True).click()
        expect(page.locator(".sortable tbody tr").first).to_contain_text("model.layers.1.self_attn.v_proj")
        page.get_by_role("link", name="Change and merge again").click()
        verdict(page, "Ready")
        assert experts_in(page) == ["merle/one", "merle/two"]
        expect(page.get_by_label("Name of the merge")).to_have_value("both")
        expect(page.locator("#name-hint")).to_contain_text("the merge becomes its next revision")


def test_keys_alone_choose_order_and_weigh(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/merge/?method=weighted_sum")
        expect(page.locator("#begin")).to_be_visible()
        first = page.get_by_label("Expert", exact=True).first
        first.focus()
        page.keyboard.type("merle/tw")
        expect(page.locator("[role=option]:visible").first).to_contain_text("merle/two")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(first).to_have_value("merle/two")
        # Only experts of the first one's base model are suggested then.
        expect(page.locator(".input-facts").first).to_contain_text("acme/tiny-base", timeout=60_000)
        second = page.get_by_label("Expert", exact=True).nth(1)
        second.focus()
        page.keyboard.type("merle/o")
        expect(page.locator("[role=option]:visible").first).to_have_text("merle/onerank 2")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        verdict(page, "Ready: 2 experts")

        page.get_by_role("button", name="Move merle/one up").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#announcer")).to_have_text("merle/one is now input 1 of 2.")
        assert experts_in(page) == ["merle/one", "merle/two"]
        expect(page.get_by_role("button", name="Move merle/one down")).to_be_focused()
        slider = page.get_by_label("Slider for the weight of merle/one")
        slider.focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_label("Weight", exact=True).first).to_have_value("0.51")
        expect(page.locator("#weight-summary")).to_contain_text("their sum is 1.01")


def test_a_method_is_chosen_by_when_to_use_it(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        page.goto("/merge/?input=merle/one&input=merle/two&input=merle/three&rank=fixed:3")
        method, rank = page.get_by_label("Method", exact=True), page.get_by_label("Rank", exact=True)
        verdict(page, "Ready: 3 experts of acme/tiny-base become one of rank 3.")
        groups = method.locator("optgroup")
        expect(groups).to_have_count(5)
        expect(groups.first).to_have_attribute("label", re.compile("^Linear: "))
        page.get_by_text("All methods, and when to use each").click()
        page.get_by_role("button", name="SLERP", exact=True).click()
        expect(method).to_be_focused()
        expect(method).to_have_value("slerp")
        expect(page.locator("#method-when")).to_contain_text("For two adapters")
        expect(page.locator("#method-terms")).to_have_text("Takes at most 2 inputs.")
        expect(page.locator("#inputs-error")).to_have_text("slerp takes at most 2 inputs, not 3.", timeout=60_000)
        verdict(page, "1 problem stands in the way, shown beside its cause.")
        method.select_option("regmean")
        expect(page.locator("#method-terms")).to_contain_text("Needs the base model's weights")

        # Concatenation loses nothing by its nature; the rank that was chosen comes back after it.
        method.select_option("cat")
        expect(rank).to_have_value("exact")
        expect(rank.locator("option:enabled")).to_have_count(1)
        verdict(page, "Ready: 3 experts")
        method.select_option("knots_ties")
        expect(rank).to_have_value("fixed")
        expect(page.get_by_label("Rank of the file")).to_have_value("3")
        verdict(page, "Ready: 3 experts of acme/tiny-base become one of rank 3.")
        page.goto("/merge/?input=merle/one&input=merle/two&method=cat")
        expect(rank).to_have_value("exact")
        method.select_option("ties")
        expect(rank).to_have_value("max_input")


def test_a_visitor_fills_the_form_and_logs_in_at_the_end(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "xenia")
        page.get_by_role("button", name="Log out").click()
        page.goto("/merge/?input=merle/one&input=merle/two")
        page.get_by_label("Method", exact=True).select_option("ties")
        verdict(page, "Ready")
        page.get_by_role("button", name="Log in and merge").click()
        page.get_by_label("Username").fill("xenia")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/merge/**")
        verdict(page, "Ready")
        assert experts_in(page) == ["merle/one", "merle/two"]
        expect(page.get_by_label("Method", exact=True)).to_have_value("ties")


def test_a_retrieval_is_merged_whole_or_as_a_list(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "yvonne")
        page.goto("/retrieve/?text=Name+the+capital+of+Chile.&owner=merle&base_model=acme/tiny-base&k=2")
        page.get_by_role("link", name="Merge all 2").click(timeout=90_000)
        verdict(page, "Ready: 2 experts")
        expect(page.locator("#retrieved > li")).to_have_count(2)
        assert '"retrieve"' in (page.locator("#snippets pre code").first.text_content() or "")
        found = page.locator("#retrieved a").all_text_contents()
        page.get_by_role("button", name="Turn into a list").click()
        verdict(page, "Ready: 2 experts")
        assert experts_in(page) == found


def test_fifty_inputs_are_kept_where_no_address_could_hold_them(site: Site, experts: None) -> None:
    given = "&".join(f"input=merle/an-expert-with-a-rather-long-name-{number:02}" for number in range(50))
    with open_browser(site.url) as (page, _):
        page.goto(f"/merge/?{given}")
        verdict(page, "50 problems stand in the way")
        expect(page.locator("#too-long")).to_be_hidden()
        page.get_by_role("button", name="Add an input").click()
        page.get_by_label("Expert", exact=True).last.fill("merle/" + "x" * 1500)
        expect(page.locator("#too-long")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Expert", exact=True)).to_have_count(51)


def test_the_text_and_the_form_keep_step(site: Site, experts: None) -> None:
    with open_browser(site.url, expected=("400 (Bad Request)",)) as (page, _):
        sign_up(page, "zelda")
        page.goto("/merge/?input=merle/one:0.25&input=merle/two:0.5&name=zelda/both")
        verdict(page, "Ready")
        text = page.get_by_label("Recipe as YAML")
        expect(text).to_have_value(re.compile(r"^format: loradex/v1\nmethod: iso_c\ninputs:\n  - adapter: merle/one\n"))
        page.get_by_label("Method", exact=True).select_option("ties")
        expect(text).to_have_value(re.compile("method: ties\n"), timeout=60_000)

        # A comment stays; what is written goes into the form, a recipe in the recipe with it.
        written = """# ours
method: weighted_sum
inputs:
  - {adapter: merle/three, weight: 1}
  - recipe:
      method: ties
      inputs: [{adapter: merle/one}, {adapter: merle/two}]
    weight: -0.5
output: {name: zelda/rest, rank: {mode: fixed, value: 3}}
"""
        text.fill(written)
        expect(page.get_by_label("Rank of the file")).to_have_value("3", timeout=60_000)
        expect(page.get_by_role("combobox", name="Recipe", exact=True)).to_have_value("ties of merle/one, merle/two")
        expect(page.get_by_label("Method", exact=True)).to_have_value("weighted_sum")
        expect(page.get_by_label("Name of the merge")).to_have_value("rest")
        verdict(page, "Ready: 2 inputs of acme/tiny-base become one of rank 3.")
        expect(text).to_have_value(written)
        address = page.url
        page.goto("/")
        page.goto(address)
        verdict(page, "Ready: 2 inputs")
        expect(text).to_have_value(re.compile("weight: -0.5"))

        # What is refused stays in the text, with its places, and is not sent.
        text.fill(written.replace("ties", "tise").replace("adapter: merle/three", "adaptor: merle/three"))
        problems = page.locator("#recipe-problems")
        expect(problems).to_contain_text("inputs[1].recipe.method", timeout=60_000)
        expect(problems).to_contain_text("has no field 'adaptor'")
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(text).to_be_focused()
        text.fill("method: [")
        expect(problems).to_contain_text("This is not plain YAML in line 1", timeout=60_000)
        page.get_by_label("Rank of the file").fill("2")
        expect(text).to_have_value(re.compile("value: 2\n"), timeout=60_000)
        expect(problems).to_be_empty()

        with page.expect_download() as saved:
            page.get_by_role("button", name="Download").click()
        assert saved.value.suggested_filename == "rest.yaml"
        # Sent at once, before the text has been read: the form waits for it.
        text.fill(Path(saved.value.path()).read_text().replace("weight: -0.5", "weight: -0.25"))
        page.get_by_role("button", name="Merge", exact=True).click()
        wait_for_success(page)
        page.get_by_role("link", name="Report").click()
        expect(page.get_by_role("cell", name="ties of merle/one, merle/two")).to_be_visible()
        document = page.request.get(
            page.get_by_role("link", name="Download as YAML").get_attribute("href") or ""
        ).text()
        assert "weight: -0.25" in document
        page.get_by_role("link", name="Change and merge again").click()
        verdict(page, "Ready: 2 inputs")


def test_examples_are_lines_and_a_prompt_keeps_its_line_break(site: Site, experts: None) -> None:
    with open_browser(site.url) as (page, _):
        sign_up(page, "yorick")
        page.goto("/merge/?input=merle/one&input=merle/two&method=lorahub&name=yorick/found")
        examples, code = page.get_by_label("examples"), page.locator("#snippets pre code").first
        # Their samples have no outputs to compare with.
        verdict(page, "2 problems stand in the way, each shown beside its cause.")
        expect(page.locator("#inputs > li").first).to_contain_text("no samples with outputs; give examples in params")
        assert "prompt" not in code.text_content(), "the default, whose line break a field of one line would lose"
        examples.fill('{"input": "a", "output": "b"}\nno JSON')
        expect(code).to_contain_text('"input": "no JSON"')
        expect(page.locator("#param-examples-error")).to_contain_text("needs an output", timeout=60_000)
        examples.fill("line\n" * 257)
        expect(page.get_by_text("These are 257 lines; at most 256 are taken.")).to_be_visible()
        examples.fill('{"input": "a", "output": "b"}\n\n{"input": "c", "output": "d"}')
        expect(code).to_contain_text('"output": "d"')
        verdict(page, "Ready if a worker has the base model: 2 experts of acme/tiny-base")
        verdict(page, "the job ends with base_not_here")
        address = page.url
        page.goto("/")
        page.goto(address)
        expect(examples).to_have_value('{"input":"a","output":"b"}\n{"input":"c","output":"d"}')


def test_a_slow_answer_and_a_lost_one_are_told(site: Site, experts: None) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    with open_browser(site.url, expected=("net::ERR_FAILED",)) as (page, _):
        page.goto("/merge/?input=merle/one&input=merle/two")
        verdict(page, "Ready")
        rank, text = page.get_by_label("Rank", exact=True), page.get_by_label("Recipe as YAML")
        page.route("**/merges/preview/", hold)
        rank.focus()
        rank.select_option("exact")
        expect(page.locator("#verdict")).to_have_text("Checking …")
        expect(rank).to_be_focused()
        held.pop().abort()
        verdict(page, "The recipe could not be checked. The server cannot be reached.")
        page.unroute("**/merges/preview/")
        page.get_by_role("button", name="Try again").press("Enter")
        verdict(page, "Ready: 2 experts")
        expect(page.locator("#verdict")).to_be_focused()

        page.route("**/merges/preview/", hold)
        written = "method: ties\ninputs: [{adapter: merle/two}]\n"
        text.fill(written)
        expect(page.locator("#recipe-problems")).to_have_text("Checking …")
        held.pop().abort()
        expect(page.locator("#recipe-problems")).to_contain_text("The server cannot be reached.")
        page.unroute("**/merges/preview/")
        page.locator("#recipe-problems").get_by_role("button", name="Try again").press("Enter")
        verdict(page, "Ready: 1 expert")
        expect(text).to_have_value(written)
        expect(text).to_be_focused()


def test_a_page_whose_methods_did_not_come_is_loaded_by_trying_again(site: Site, experts: None) -> None:
    with open_browser(site.url, expected=("net::ERR_FAILED",)) as (page, _):
        page.route("**/api/v1/methods/", lambda route: route.abort())
        page.goto("/merge/?input=merle/one&input=merle/two")
        verdict(page, "The methods could not be loaded.")
        page.unroute("**/api/v1/methods/")
        page.get_by_role("button", name="Try again").click()
        verdict(page, "Ready: 2 experts")


def test_a_recipe_is_opened_from_a_file(site: Site, experts: None, tmp_path: Path) -> None:
    def write(name: str, raw: bytes) -> Path:
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    yaml = b"# ours\nmethod: ties\ninputs: [{adapter: merle/one}, {adapter: merle/two}]\n"
    indented = b'\xef\xbb\xbf{\n\t"method": "svd",\n\t"inputs": [\n\t\t{"adapter": "merle/two"}\n\t]\n}\n'
    with open_browser(site.url, expected=("400 (Bad Request)",)) as (page, _):
        page.goto("/merge/")
        text, problems = page.get_by_label("Recipe as YAML"), page.locator("#recipe-problems")
        opener, method = page.get_by_label("Open a file"), page.get_by_label("Method", exact=True)
        verdict(page, "Name the experts to merge.")
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Open a file …").click()
        chooser.value.set_files(write("ours.yaml", yaml))
        verdict(page, "Ready: 2 experts")
        expect(text).to_have_value(yaml.decode())
        expect(method).to_have_value("ties")
        expect(page.locator("#announcer")).to_have_text("ours.yaml is in the text.")

        # What is no recipe leaves the form and the text as they are.
        for name, raw, words in (
            ("large.yaml", b"#" * 300_000, "large.yaml has 293 kB; a recipe has at most 256 kB."),
            ("weights.yml", b"\x80\x02pickled", "weights.yml is not a recipe: it is not UTF-8 text."),
            ("nul.yaml", b"method: \0", "nul.yaml is not a recipe: it is not text."),
        ):
            opener.set_input_files(write(name, raw))
            expect(problems).to_have_text(words)
            expect(text).to_have_value(yaml.decode())
        opener.set_input_files(write("recipe.json", indented))
        verdict(page, "Ready: 1 expert")
        expect(method).to_have_value("svd")
        expect(problems).to_be_empty()
        opener.set_input_files(write("list.yaml", b"- method: ties\n"))
        expect(problems).to_contain_text("Not in the form yet:", timeout=60_000)
        opener.set_input_files(write("empty.yaml", b""))
        expect(problems).to_contain_text("Not in the form yet:", timeout=60_000)
