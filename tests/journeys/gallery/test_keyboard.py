"""Every control is reached and seen by keyboard alone, nothing holds the focus, and Escape closes what was opened."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.gallery.camera import Camera
from tests.journeys.gallery.states import STATES

pytestmark = [pytest.mark.journey, pytest.mark.browser]

BY_NAME = {str(state): state for state in STATES}
PAGES = (
    "home-filled", "list-filled", "adapter-owner", "upload-chosen", "retrieve-answered", "retrieve-job", "merge-inputs",
    "trial-ended", "import-filled", "jobs-filled", "job-running", "merge-result-finished", "tokens-filled",
    "signup-error", "leaderboard-filled", "methods-picked", "bundle-lacking", "bundle-ended",
    "compositions-filled", "composition-trained", "compose-upload",
)  # fmt: skip
REACH = Path(__file__).with_name("keyboard.js").read_text(encoding="utf-8")


def walk(page: Page, limit: int) -> list[dict]:
    """Press Tab until the focus leaves the page or comes round."""
    stops: list[dict] = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        stop = page.evaluate("reach.focused()")
        if stop is None or any(stop["name"] == each["name"] for each in stops):
            return stops
        stops.append(stop)
    pytest.fail(f"after {limit} steps the focus is still at {stops[-3:]}: a trap")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_every_control_and_shows_where_it_is(
    request: pytest.FixtureRequest, camera: Camera, name: str, width: int
) -> None:
    state = BY_NAME[name]
    with camera.visit(request.getfixturevalue(state.site), state, width) as (page, _):
        page.evaluate(REACH)
        controls = page.evaluate("reach.controls()")
        page.locator(".skip").focus()
        start = page.evaluate("reach.focused()")["name"]
        stops = walk(page, 2 * len(controls) + 10)
        reached = {start, *(stop["name"] for stop in stops)}
        assert [control for control in controls if control not in reached] == []
        assert [stop["name"] for stop in stops if not stop["outlined"]] == []
        assert [stop["name"] for stop in stops if stop["covered"]] == []


def test_the_first_stop_skips_to_the_content(filled, camera: Camera) -> None:
    with camera.visit(filled, BY_NAME["list-filled"], 1280) as (page, _):
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.closest('main') !== null")


def test_escape_closes_the_menu_and_gives_the_focus_back(filled, camera: Camera) -> None:
    with camera.visit(filled, BY_NAME["home-filled"], 390) as (page, _):
        button = page.get_by_role("button", name="Menu")
        button.focus()
        page.keyboard.press("Enter")
        link = page.get_by_role("link", name="Experts", exact=True)
        expect(link).to_be_visible()
        page.keyboard.press("Tab")
        expect(link).to_be_focused()
        page.keyboard.press("Escape")
        expect(link).to_be_hidden()
        expect(button).to_be_focused()


def test_escape_closes_the_list_of_names(filled, camera: Camera) -> None:
    with camera.visit(filled, BY_NAME["merge-empty"], 1280) as (page, _):
        field = page.get_by_role("combobox", name="Expert").first
        field.press_sequentially("ada/")
        expect(page.get_by_role("listbox").first).to_be_visible()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Escape")
        expect(page.get_by_role("listbox")).to_have_count(0)
        expect(field).to_be_focused()


def test_the_choice_of_colours_outlives_the_page(filled, camera: Camera) -> None:
    with camera.visit(filled, BY_NAME["list-filled"], 1280) as (page, _):
        page.emulate_media(color_scheme="light")
        background = "() => getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.get_by_label("Colours").select_option("dark")
        dark = page.evaluate(background)
        assert dark != light
        page.goto("/retrieve/")
        assert page.evaluate(background) == dark
        page.get_by_label("Colours").select_option("as the system")
        assert page.evaluate(background) == light
