"""Every page in every state that a person can meet, and how to get it there."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from playwright.sync_api import Page, expect

from tests.journeys.gallery.sites import ZOO

# A first question loads the encoder; the machine may be busy.
ANSWER_MS = 240_000
PROMPT = quote("Turn the record into JSON with the keys name, age and city.\nInes, aged 24, lives in Delhi")
EXAMPLES = "param.examples=" + quote('[{"input": "Name the capital of Peru."}]')
INPUTS = "input=ada/record-to-json:0.7&input=ada/date-format:0.3"
REFUSED = ("the server responded with a status of",)


def as_it_comes(page: Page) -> None:
    pass


@dataclass(frozen=True)
class State:
    """`site` is a fixture of conftest.py; `path` may name marks of that site; `prepare` acts as a person would."""

    page: str
    name: str
    site: str
    path: str
    user: str | None = None
    prepare: Callable[[Page], None] = as_it_comes
    expected: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}-{self.name}"


def answered(page: Page) -> None:
    expect(page.locator("#results .match").first).to_be_visible(timeout=ANSWER_MS)


def abstained(page: Page) -> None:
    expect(page.locator("#results .empty")).to_be_visible(timeout=ANSWER_MS)


def ticked(page: Page) -> None:
    answered(page)
    for box in page.get_by_role("checkbox", name="Merge ").all()[:2]:
        box.check()
    expect(page.get_by_role("link", name="Merge these")).to_be_visible()


def asked_for_nothing(page: Page) -> None:
    page.get_by_role("button", name="Find experts").click()
    expect(page.locator(".error, [role=alert]").first).to_be_visible()


def chosen(page: Page) -> None:
    files = ["adapter_config.json", "adapter_model.safetensors", "samples.jsonl", "README.md", "test.jsonl"]
    page.locator("#files").set_input_files([ZOO / "date-format" / file for file in files])
    page.get_by_label("Name of the expert").fill("dates")
    expect(page.locator("#verdict-state")).to_have_class("badge ready")


def refused(page: Page) -> None:
    page.locator("#files").set_input_files(
        [
            {"name": "adapter_config.json", "mimeType": "", "buffer": b'{"peft_type": "LORA", "r": 8'},
            {"name": "adapter_model.safetensors", "mimeType": "", "buffer": b"\x80\x02pickled"},
        ]
    )
    page.get_by_label("Name of the expert").fill("dates")
    expect(page.locator("#verdict-state")).to_have_class("badge rejected")


def uploading(page: Page) -> None:
    """The server never answers, so that the site stays as it is."""
    chosen(page)
    page.route("**/api/v1/adapters/", lambda route: None)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#progress")).to_be_visible()


def merge_judged(page: Page) -> None:
    expect(page.locator("#verdict")).not_to_be_empty(timeout=ANSWER_MS)
    expect(page.locator("#verdict.checking")).to_have_count(0, timeout=ANSWER_MS)


def merge_refused(page: Page) -> None:
    merge_judged(page)
    expect(page.locator("p.error:visible, [role=alert], #verdict .bad").first).to_be_visible()


def merge_checking(page: Page) -> None:
    """The server never answers."""
    merge_judged(page)
    page.route("**/merges/preview/", lambda route: None)
    page.get_by_label("Rank", exact=True).select_option("exact")
    expect(page.locator("#verdict.checking")).to_be_visible()


def merge_lost(page: Page) -> None:
    merge_judged(page)
    page.route("**/merges/preview/", lambda route: route.abort())
    page.get_by_label("Recipe as YAML").fill("method: ties")
    page.get_by_label("Rank", exact=True).focus()
    expect(page.locator("#recipe-problems").get_by_role("button", name="Try again")).to_be_visible()
    page.get_by_label("Rank", exact=True).select_option("exact")
    expect(page.locator("#verdict").get_by_role("button", name="Try again")).to_be_visible()
    page.locator("#open-recipe").set_input_files({"name": "photo.yaml", "mimeType": "", "buffer": bytes(300_000)})
    expect(page.locator("#recipe-problems")).to_contain_text("a recipe has at most")


def submitted(button: str) -> Callable[[Page], None]:
    """Press a button of a form that is not filled in, past the browser's own checks."""

    def press(page: Page) -> None:
        pressed = page.locator("main").get_by_role("button", name=button)
        pressed.evaluate("button => { button.form.noValidate = true }")
        pressed.click()
        expect(page.locator(".error, [role=alert]").first).to_be_visible()

    return press


def wrong_password(page: Page) -> None:
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password", exact=True).fill("not this one")
    page.locator("main").get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def relative_directory(page: Page) -> None:
    page.get_by_label("Directory").fill("loras")
    page.get_by_role("button", name="Look first").click()
    expect(page.get_by_role("alert")).to_be_visible()


def token_made(page: Page) -> None:
    page.get_by_label("Name").fill("notebook")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".secret")).to_be_visible()


def expired_form(page: Page) -> None:
    page.context.clear_cookies(name="csrftoken")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password", exact=True).fill("whatever it is")
    page.locator("main").get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text("Log in")


def menu_open(page: Page) -> None:
    if page.get_by_role("button", name="Menu").is_visible():
        page.get_by_role("button", name="Menu").click()
        expect(page.get_by_role("link", name="Retrieve")).to_be_visible()


STATES = [
    State("home", "empty", "empty", "/"),
    State("home", "filled", "filled", "/", "ada"),
    State("home", "menu", "filled", "/", "ada", menu_open),
    State("home", "crowded", "crowded", "/"),
    State("list", "empty", "empty", "/adapters/"),
    State("list", "filled", "filled", "/adapters/", "ada"),
    State("list", "filtered", "filled", "/adapters/?search=json&tag=example"),
    State("list", "no-match", "filled", "/adapters/?search=nothing+like+this"),
    State("list", "crowded", "crowded", "/adapters/"),
    State(
        "list",
        "crowded-filtered",
        "crowded",
        "/adapters/?license=mit&license=apache-2.0&rank=16&page=3",
    ),
    State("adapter", "ready", "filled", "/adapters/ada/date-format/"),
    State("adapter", "owner", "filled", "/adapters/ada/roman-numerals/", "ada"),
    State("adapter", "old-revision", "filled", "/adapters/ada/roman-numerals/?revision={old_revision}", "ada"),
    State("adapter", "private", "filled", "/adapters/ada/review-sentiment/", "ada"),
    State("adapter", "merged", "filled", "/adapters/ada/json-dates/", "ada"),
    State("adapter", "unknown-base", "filled", "/adapters/bo/stranger/"),
    State("adapter", "checking", "filled", "/adapters/ada/waiting/", "ada"),
    State("adapter", "rejected", "filled", "/adapters/ada/spoilt/", "ada"),
    State("adapter", "yanked", "filled", "/adapters/ada/retired/", "ada"),
    State("adapter", "crowded", "crowded", "/adapters/{expert}/"),
    State("compare", "two", "filled", "/adapters/compare/?input=ada/date-format&input=bo/stranger", "ada"),
    State("compare", "nothing", "filled", "/adapters/compare/"),
    State("import", "empty", "empty", "/import/", "operator"),
    State("import", "filled", "filled", "/import/", "operator"),
    State("import", "error", "filled", "/import/", "operator", relative_directory),
    State("upload", "empty", "empty", "/upload/", "ada"),
    State("upload", "chosen", "filled", "/upload/", "ada", chosen),
    State("upload", "new-revision", "filled", "/upload/?name=ada/date-format", "ada"),
    State("upload", "refused", "filled", "/upload/", "ada", refused, REFUSED),
    State("upload", "uploading", "filled", "/upload/", "ada", uploading),
    State("retrieve", "empty", "filled", "/retrieve/"),
    State("retrieve", "answered", "filled", f"/retrieve/?text={PROMPT}", "ada", ticked),
    State("retrieve", "abstained", "empty", f"/retrieve/?text={PROMPT}", None, abstained),
    State("retrieve", "error", "filled", "/retrieve/", None, asked_for_nothing, REFUSED),
    State("merge", "empty", "filled", "/merge/", "ada", merge_judged),
    State("merge", "anonymous", "filled", "/merge/", None, merge_judged),
    State("merge", "inputs", "filled", f"/merge/?{INPUTS}", "ada", merge_judged),
    State("merge", "checking", "filled", f"/merge/?{INPUTS}", "ada", merge_checking),
    State("merge", "lost", "filled", f"/merge/?{INPUTS}", "ada", merge_lost, ("net::ERR_FAILED",)),
    State("merge", "no-base", "filled", f"/merge/?input=bo/stranger&method=packllm&{EXAMPLES}", "ada", merge_judged),
    State("merge", "no-samples", "filled", "/merge/?input=bo/stranger&method=lorahub", "ada", merge_refused),
    State("merge", "refused", "filled", "/merge/?input=ada/date-format&input=bo/stranger", "ada", merge_refused),
    State("merge-result", "finished", "filled", "/merges/{merge}/", "ada"),
    State("merge-result", "running", "filled", "/merges/{running_merge}/", "ada"),
    State("jobs", "empty", "empty", "/jobs/", "ada"),
    State("jobs", "filled", "filled", "/jobs/", "ada"),
    State("jobs", "crowded", "crowded", "/jobs/", "ada"),
    State("job", "queued", "filled", "/jobs/{queued_job}/", "ada"),
    State("job", "running", "filled", "/jobs/{running_job}/", "ada"),
    State("job", "succeeded", "filled", "/jobs/{merged_job}/", "ada"),
    State("job", "failed", "filled", "/jobs/{failed_job}/", "ada"),
    State("job", "cancelled", "filled", "/jobs/{cancelled_job}/", "ada"),
    State("job", "looked", "filled", "/jobs/{looked_job}/", "operator"),
    State("job", "import", "filled", "/jobs/{import_job}/", "operator"),
    State("login", "empty", "filled", "/login/?next=/upload/"),
    State("login", "error", "filled", "/login/", None, wrong_password),
    State("signup", "empty", "filled", "/signup/"),
    State("signup", "error", "filled", "/signup/", None, submitted("Create the account")),
    State("signup", "closed", "crowded", "/signup/", None, as_it_comes, REFUSED),
    State("tokens", "filled", "filled", "/settings/tokens/", "ada"),
    State("tokens", "error", "filled", "/settings/tokens/", "ada", submitted("Create")),
    State("tokens", "empty", "empty", "/settings/tokens/", "newcomer"),
    State("tokens", "made", "empty", "/settings/tokens/", "ada", token_made),
    State("error", "400", "filled", "/adapters/?" + "a&" * 1001, None, as_it_comes, REFUSED),
    State("error", "403", "filled", "/import/", "ada", as_it_comes, REFUSED),
    State("error", "403-form", "filled", "/login/", None, expired_form, REFUSED),
    State("error", "404", "filled", "/adapters/ada/nothing/", None, as_it_comes, REFUSED),
    State("error", "500", "crowded", "/settings/tokens/", "ada", as_it_comes, REFUSED),
]
