"""How often the default router finds the own expert of 5,150 real queries among 103, over HTTP (top-1/3/8)."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.gate import rates_over_http
from tests.journeys.server import running_site
from tests.retrieval.dataset import DEPTHS, FULL_BASELINE, TOLERANCE


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data") as site:
        rates = rates_over_http(site, Path(folder), core_only=False)
    for depth, rate, expected in zip(DEPTHS, rates, FULL_BASELINE, strict=True):
        print(f"top-{depth} {rate:.2f} % (expected {expected} ± {TOLERANCE})")
    if any(abs(rate - expected) > TOLERANCE for rate, expected in zip(rates, FULL_BASELINE, strict=True)):
        raise SystemExit("outside the tolerance")


if __name__ == "__main__":
    main()
