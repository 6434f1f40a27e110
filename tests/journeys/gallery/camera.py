"""Opens pages in one browser, photographs them, and says what a critic would find wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from tests.journeys.browser import Watch
from tests.journeys.gallery.rows import PASSWORD
from tests.journeys.gallery.sites import Scene
from tests.journeys.gallery.states import State

WAIT_MS = 60_000
HEIGHT = 800
# Nothing that loads after the page may be missing from the picture.
SETTLED = """() => document.readyState === "complete"
    && !document.querySelector("[hx-trigger=load], .htmx-request")
    && [...document.querySelectorAll("[data-chart]")].every((chart) => chart.querySelector("svg"))
    && [...document.querySelectorAll(".map")].every((map) => map.dataset.drawn)"""
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Camera:
    """One context, which is one login, per site and user; one page per visit."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser = browser
        self._folder = folder
        self._contexts: dict[tuple[str, str | None], BrowserContext] = {}
        self._axe = Axe()

    @contextmanager
    def visit(self, scene: Scene, state: State, width: int) -> Iterator[tuple[Page, Watch]]:
        """The page in that state, `width` CSS pixels wide, and the watch on it."""
        page = self._context(scene, state.user).new_page()
        watch = Watch(scene.site.url, state.expected)
        watch.on_page(page)
        try:
            page.set_viewport_size({"width": width, "height": HEIGHT})
            page.goto(state.path.format(**scene.marks))
            state.prepare(page)
            page.wait_for_function(SETTLED)
            yield page, watch
        finally:
            page.close()

    def _context(self, scene: Scene, user: str | None) -> BrowserContext:
        key = (scene.site.url, user)
        if key not in self._contexts:
            context = self._browser.new_context(base_url=scene.site.url, reduced_motion="reduce", timezone_id="UTC")
            context.set_default_timeout(WAIT_MS)
            if user:
                _log_in(context.new_page(), user)
            self._contexts[key] = context
        return self._contexts[key]

    def shoot(self, page: Page, name: str) -> None:
        """Write the whole page to `name`.png, in a window as high as the page, so that what sticks is at its end."""
        size = page.viewport_size
        page.set_viewport_size(size | {"height": max(HEIGHT, page.evaluate("document.documentElement.scrollHeight"))})
        page.evaluate(TWO_FRAMES)
        page.screenshot(path=self._folder / f"{name}.png", animations="disabled")
        page.set_viewport_size(size)

    def violations(self, page: Page) -> list[str]:
        """What axe-core calls serious or critical on the page, one line per element."""
        return [
            f"{found['id']}: {node['target'][0]}: {node['failureSummary']}"
            for found in self._axe.run(page).response["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]


def _log_in(page: Page, user: str) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.locator("main").get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login/" not in url)
    page.close()


def faults(page: Page) -> list[str]:
    """What every page owes its readers and this one does not give."""
    facts: dict[str, Any] = page.evaluate(
        """() => ({
            title: document.title,
            lang: document.documentElement.lang,
            headings: [...document.querySelectorAll("h1")].filter((node) => node.checkVisibility()).length,
            overflow: document.documentElement.scrollWidth - innerWidth,
            ids: [...document.querySelectorAll("[id]")].map((node) => node.id),
        })"""
    )
    found = []
    if not facts["title"] or (facts["title"] == "Loradex" and page.url.count("/") > 3):
        found.append(f"the title {facts['title']!r} does not name the page")
    if facts["lang"] != "en":
        found.append(f"the language is {facts['lang']!r}")
    if facts["headings"] != 1:
        found.append(f"{facts['headings']} visible h1")
    if facts["overflow"] > 0:
        found.append(f"the page is {facts['overflow']} pixels wider than the window")
    if repeated := {name for name in facts["ids"] if facts["ids"].count(name) > 1}:
        found.append(f"ids that are not unique: {repeated}")
    return found
