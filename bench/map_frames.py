"""The map of 10,000 experts in headless Chromium without a graphics card: what a frame of pointing and zooming takes.

Script is timed around the frame's own work, so that its 10 % quantile stands for a machine that does nothing else. CPU
is that of all processes of the browser, which includes showing the picture. Bar: script of every kind below 16.7 ms.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Page, sync_playwright

from tests.journeys.browser import FLAGS, find_chromium
from tests.journeys.server import ROOT, running_site

BAR_MS = 1000 / 60
FRAMES = 90
FILL = "import django; django.setup(); from bench.registry_rows import fill; fill({})"
MEASURE = """async ([kind, frames]) => {
  const box = document.querySelector(".map");
  const { left, top } = box.getBoundingClientRect();
  const request = window.requestAnimationFrame.bind(window);
  const costs = [];
  window.requestAnimationFrame = (draw) => request((time) => {
    const start = performance.now();
    draw(time);
    costs.push(performance.now() - start);
  });
  box.setPointerCapture = () => {};
  const at = (x, y) => ({ clientX: left + x, clientY: top + y, pointerId: 1, ctrlKey: true, cancelable: true });
  const send = (type, x, y) => box.dispatchEvent(new PointerEvent(type, at(x, y)));
  const wheel = (deltaY) => box.dispatchEvent(new WheelEvent("wheel", { deltaY, ...at(500, 200) }));
  if (kind === "move") { wheel(-80); send("pointerdown", 400, 200); }
  const step = {
    point: (i) => send("pointermove", 100 + 9 * i, 50 + 3 * i),
    zoom: (i) => wheel(i < frames / 2 ? -12 : 12),
    move: (i) => send("pointermove", 400 + 4 * (i % 40), 200 + 2 * (i % 30)),
  }[kind];
  for (let i = 0; i < frames; i += 1) { step(i); await new Promise((done) => request(done)); }
  if (kind === "move") send("pointercancel", 400, 200);
  window.requestAnimationFrame = request;
  return costs;
}"""


@contextmanager
def site_of(count: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data", worker=False) as site:
        subprocess.run([sys.executable, "-c", FILL.format(count)], cwd=ROOT, env=site.env, check=True)
        yield site.url


def cpu_ticks(pid: int) -> int:
    """Of a process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12]) + sum(cpu_ticks(int(child)) for child in children)


def measure(page: Page, url: str) -> None:
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer) if "/api/v1/map/" in answer.url else None)
    page.goto(url)
    page.locator(".map[data-drawn]").wait_for(timeout=120_000)
    page.locator(".map").scroll_into_view_if_needed()
    size = answers[0].request.sizes()["responseBodySize"]
    print(f"{page.locator('.map').get_attribute('data-drawn')} points, {size / 1000:.0f} kB over the wire")
    print(f"{'':8}{'script p10':>12}{'p50':>10}{'p95':>10}{'CPU a frame':>14}   bar: script p10 < {BAR_MS:.1f} ms")
    for kind in ("point", "zoom", "move"):
        before = cpu_ticks(os.getpid())
        costs = sorted(page.evaluate(MEASURE, [kind, FRAMES]))
        cpu = (cpu_ticks(os.getpid()) - before) * 1000 / os.sysconf("SC_CLK_TCK") / FRAMES
        p10, p50, p95 = (costs[int(share * (len(costs) - 1))] for share in (0.1, 0.5, 0.95))
        verdict = "" if p10 < BAR_MS else "MISSED"
        print(f"{kind:8}{p10:>10.1f}ms{p50:>8.1f}ms{p95:>8.1f}ms{cpu:>12.1f}ms   {verdict}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--url", help="of a site that runs already")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        if options.url:
            measure(page, options.url)
        else:
            with site_of(options.experts) as url:
                measure(page, url)
        browser.close()


if __name__ == "__main__":
    main()
