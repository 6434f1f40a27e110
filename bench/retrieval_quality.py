"""How often `lora_retriever` finds a query's own expert: 103 real tasks, 5,150 queries, over HTTP."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.gate import rates_over_http
from tests.journeys.server import running_site
from tests.retrieval.dataset import DEPTHS, FULL_BASELINE


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, running_site(Path(scratch) / "data", OMP_NUM_THREADS="2") as site:
        rates = rates_over_http(site, Path(scratch) / "experts", core_only=False)
    print("top-k   measured   published baseline")
    for depth, rate, baseline in zip(DEPTHS, rates, FULL_BASELINE, strict=True):
        print(f"{depth:>5} {rate:>10.1f} {baseline:>10.1f}")


if __name__ == "__main__":
    main()
