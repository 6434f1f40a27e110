"""Pages at 10,000 adapters on SQLite and PostgreSQL: p50 and p95 of list, filters, adapter, home and REST."""

import argparse
import http.client
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import Site, running_site

BAR_MS = 200
WARM_UP = 5


def paths(count: int, names: list[str]) -> dict[str, Callable[[random.Random], str]]:
    """What is measured: a name → an address drawn at random."""
    bases = ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "acme/wren-1b"]
    words = ["sql", "übungen", "legal french", "résumés", "wren", "nothing-like-it"]
    orders = ["-updated_at", "-created_at", "-downloads", "name", "size_bytes", "-rank"]

    def asked(path: str, **query: object) -> str:
        return f"{path}?{urlencode(query, doseq=True)}"

    def combination(dice: random.Random) -> str:
        query = {
            "base_model": dice.sample(bases, 2),
            "license": dice.sample(["mit", "apache-2.0", "cc-by-4.0"], 2),
            "rank": dice.sample(["4", "8", "16", "32"], 2),
            "samples": ["yes"],
            "ordering": [dice.choice(orders)],
            "search": [dice.choice(words[:2])],
        }
        kept = dice.sample(sorted(query), dice.randint(2, len(query)))
        return asked("/adapters/", **{name: query[name] for name in kept})

    last = max(count // 25 - 5, 1)
    return {
        "floor: a page without rows": lambda dice: "/login/",
        "list": lambda dice: "/adapters/",
        "list, any order": lambda dice: asked("/adapters/", ordering=dice.choice(orders)),
        "list, deep page": lambda dice: asked("/adapters/", ordering=dice.choice(orders), page=dice.randint(2, last)),
        "list, searched": lambda dice: asked("/adapters/", search=dice.choice(words)),
        "list, one facet": lambda dice: asked("/adapters/", base_model=dice.choice(bases)),
        "list, two to six facets": combination,
        "adapter": lambda dice: f"/adapters/{dice.choice(names)}/",
        "home": lambda dice: "/",
        "map of the experts": lambda dice: "/api/v1/map/",
        "REST list": lambda dice: asked("/api/v1/adapters/", ordering=dice.choice(orders), page=dice.randint(1, last)),
        "REST list of 100": lambda dice: asked("/api/v1/adapters/", page_size=100, license=dice.choice(["mit", ""])),
        "REST adapter": lambda dice: f"/api/v1/adapters/{dice.choice(names)}/",
    }


def measure(site: Site, draw: Callable[[random.Random], str], rounds: int) -> tuple[float, float, int]:
    """p50 and p95 in ms of one client on one connection, and the length of the longest answer in bytes."""
    dice = random.Random(0)
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=120)
    times, longest = [], 0
    for number in range(rounds + WARM_UP):
        path = draw(dice)
        started = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        took = (time.perf_counter() - started) * 1000
        assert answer.status == 200, (path, answer.status, body[:500])
        if number >= WARM_UP:
            times.append(took)
            longest = max(longest, len(body))
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.95)], longest


def floor_sql(rounds: int) -> float:
    """p50 in ms of reading 25 names by their index, in process: what no list of this database can beat."""
    from registry.models import Adapter

    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        list(Adapter.objects.order_by("full_name").values_list("full_name", flat=True)[:25])
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)[len(times) // 2]


@contextmanager
def databases(names: list[str]) -> Iterator[dict[str, dict[str, str]]]:
    """What the environment has to say for each; a private PostgreSQL runs meanwhile."""
    found: dict[str, dict[str, str]] = {"sqlite": {}}
    if "postgresql" not in names:
        yield found
        return
    from tests.services.postgres import Postgres

    server = Postgres()
    try:
        server.start()
        found["postgresql"] = {"DATABASE_URL": server.new_database("bench")}
        yield {name: found[name] for name in names}
    finally:
        server.remove()


def run(site: Site, count: int, rounds: int) -> None:
    """Everything about one database; in a process of its own, because Django is set up once per process."""
    os.environ.update(site.env)
    import django

    django.setup()
    from bench.registry_rows import fill
    from registry.models import Adapter

    started = time.perf_counter()
    fill(count)
    print(f"{count} adapters written in {time.perf_counter() - started:.0f} s")
    names = list(Adapter.objects.filter(visibility="public").order_by("?").values_list("full_name", flat=True)[:200])
    print(f"{'':28}{'p50':>9}{'p95':>9}{'bytes':>10}   bar: p95 <= {BAR_MS} ms")
    print(f"{'floor: 25 names by SQL':28}{floor_sql(rounds):>7.1f}ms")
    for name, draw in paths(count, names).items():
        p50, p95, length = measure(site, draw, rounds)
        print(f"{name:28}{p50:>7.1f}ms{p95:>7.1f}ms{length:>10}   {'' if p95 <= BAR_MS else 'MISSED'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data", worker=False) as site:
            run(site, options.adapters, options.rounds)
        return
    with databases(options.databases) as found:
        for name, env in found.items():
            print(f"\n{name}", flush=True)
            command = [
                sys.executable,
                __file__,
                "--inside",
                f"--adapters={options.adapters}",
                f"--rounds={options.rounds}",
            ]
            subprocess.run(command, env=os.environ | env, check=True)


if __name__ == "__main__":
    main()
