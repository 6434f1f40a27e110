"""A real headless Chromium, and a watch on everything that a page may do wrong."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install -y chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-dev-shm-usage"
).split()

# A click on a link returns as soon as the new page begins. Nothing is done on that page before its scripts have run,
# which is at DOMContentLoaded, as they are modules.
MARK_LOADED = "addEventListener('DOMContentLoaded', () => { document.documentElement.dataset.loaded = ''; })"
LOADING = ":root:not([data-loaded])"


def find_chromium() -> str:
    """$CHROMIUM, or one on the PATH, or Debian's where we may install it. Fails with the command to run."""
    if chosen := os.environ.get("CHROMIUM"):
        return chosen
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=False, timeout=300)
        subprocess.run(INSTALL.split(), check=False, timeout=600)
        if found := shutil.which("chromium"):
            return found
    pytest.fail(f"The browser journey needs Chromium: run `{INSTALL}` as root, or name one in $CHROMIUM.")


@dataclass
class Watch:
    """What went wrong in the pages of a context. A refusal that a test provokes is named in `expected`."""

    url: str
    expected: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    def on_page(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        # Violations of the Content-Security-Policy are console errors too.
        if message.type in ("error", "warning") and not any(text in message.text for text in self.expected):
            self.problems.append(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")


@contextmanager
def open_browser(url: str, *, expected: tuple[str, ...] = ()) -> Iterator[tuple[Page, Watch]]:
    """A page on a fresh profile, and its watch. Fails at the end where the watch saw a problem."""
    watch = Watch(url, expected)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        context = browser.new_context(base_url=url, accept_downloads=True)
        context.set_default_timeout(30_000)
        context.on("page", watch.on_page)
        context.add_init_script(MARK_LOADED)
        try:
            page = context.new_page()
            page.add_locator_handler(page.locator(LOADING), lambda _: page.wait_for_load_state("domcontentloaded"))
            yield page, watch
        except Exception as error:
            error.add_note("The watch saw: " + ("\n".join(watch.problems) or "nothing"))
            raise
        finally:
            context.close()
            browser.close()
    if watch.problems:
        pytest.fail("\n".join(watch.problems))


def drop_files(context: BrowserContext, page: Page, selector: str, paths: list[Path]) -> None:
    """Drop files or folders on an element, as from a file manager."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = context.new_cdp_session(page)
    for step in ("dragEnter", "dragOver", "drop"):
        session.send(
            "Input.dispatchDragEvent",
            {"type": step, "x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "data": data},
        )
