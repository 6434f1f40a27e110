"""What a person does on a page before it is photographed."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.journeys.gallery.sites import ZOO

# A first question loads the encoder; the machine may be busy.
ANSWER_MS = 240_000


def as_it_comes(page: Page) -> None:
    pass


def answered(page: Page) -> None:
    expect(page.locator("#results .match").first).to_be_visible(timeout=ANSWER_MS)


def abstained(page: Page) -> None:
    expect(page.locator("#results .empty")).to_be_visible(timeout=ANSWER_MS)


def route_running(page: Page) -> None:
    expect(page.locator(".route-job .job-line")).not_to_be_empty(timeout=ANSWER_MS)


def route_ended(page: Page) -> None:
    answered(page)
    expect(page.locator(".layers tbody tr")).to_have_count(3)


def told(page: Page) -> None:
    """Why there is no answer."""
    expect(page.locator("#results .notice")).to_be_visible(timeout=ANSWER_MS)


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


def bundle_shown(page: Page) -> None:
    expect(page.locator(".router").first).to_be_visible()


def bundle_lacking(page: Page) -> None:
    page.get_by_role("button", name="Make the bundle").click()
    expect(page.get_by_role("button", name="Train its gates")).to_be_focused()


def bundle_ended(page: Page) -> None:
    expect(page.get_by_role("heading", name="The bundle is ready")).to_be_visible()


def compose_shown(page: Page) -> None:
    expect(page.get_by_role("button", name="rain the gates")).to_be_enabled()


def compose_upload(page: Page) -> None:
    """All that is missing is said at once."""
    compose_shown(page)
    page.get_by_role("radio", name="Upload a file").check()
    page.get_by_label("Type").select_option("MeteoRA")
    page.get_by_role("button", name="Upload the gates").click()
    expect(page.locator("#gates-error")).to_be_visible()


def compose_refused(page: Page) -> None:
    page.get_by_role("button", name="Train the gates").click()
    expect(page.get_by_text("It was trained on acme/tiny-base")).to_be_visible()


def trial_written(page: Page) -> None:
    page.get_by_label("Examples", exact=True).fill("1998-11-06 => 6 November 1998\n2027-09-24 => 24 September 2027")
    expect(page.locator("#understood")).to_be_visible()


def trial_refused(page: Page) -> None:
    page.get_by_label("Examples", exact=True).fill('1998-11-06 => 6 November 1998\nno answer\n{"input": "1904-09-08"}')
    page.get_by_role("button", name="Try them").click()
    expect(page.locator("#examples-error")).to_be_visible()


def trial_ended(page: Page) -> None:
    expect(page.get_by_role("link", name="Download the merge")).to_be_visible()


def trial_running(page: Page) -> None:
    expect(page.locator("#trial .log li")).to_have_count(3)


def trial_failed(page: Page) -> None:
    expect(page.get_by_role("alert")).to_be_visible()


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


def tasks_shown(page: Page) -> None:
    page.get_by_text("Task by task").click()
    expect(page.get_by_role("group", name="Top-1 of every task")).to_be_visible()
