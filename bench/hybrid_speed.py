"""What the hybrid router costs beyond encoding, and whether its short lists miss any of the best experts.

`python -m bench.hybrid_speed [--experts N ...]`, on pools of experts that are hard to tell apart.
"""

import argparse
import os
import time

import django
import numpy as np

from bench.hybrid_quality import Bench, Embeddings, encode
from lora.hybrid.shortlist import Head, length, products
from lora.hybrid.space import HybridSpace
from lora.hybrid.wrappers import spans
from tests.retrieval.dataset import DEPTHS


def crowd(bench: Bench, space: HybridSpace, experts: int) -> np.ndarray:
    """Rows of many experts that are hard to tell apart: each is the mean of 5 samples of a task."""
    rng = np.random.default_rng(0)
    each = -(-experts // len(bench.samples))
    means = []
    for part in bench.samples:
        z = space.whitened(bench.embed(part), part)
        means += [z[rng.choice(len(z), 5, replace=False)].mean(axis=0) for _ in range(each)]
    rows = np.array(means[:experts], np.float32)
    return np.hstack([rows, -0.5 * np.square(rows).sum(axis=1, keepdims=True)])


def speed(bench: Bench, space: HybridSpace, experts: int) -> None:
    """CPU time of one query beyond its encoding, and what short lists miss of the full products' best eight."""
    table, listed = crowd(bench, space, experts), length(experts)
    started = time.process_time()
    head = Head.of(table)
    made = time.process_time() - started
    asked = [spans(text) for text in bench.queries(slice(0, 2))[0]]
    times, found = [], []
    for parts in asked:
        embeddings = encode(parts)  # as a request does: what is read next is not at hand any more
        clock = [time.process_time()]
        query = space.query(embeddings, parts)
        clock.append(time.process_time())
        [rough] = head.products(query.rows[:1])
        near = np.sort(np.argpartition(-rough, listed)[:listed])
        clock.append(time.process_time())
        space.combine(query, products(table, near, query.rows))
        clock.append(time.process_time())
        times.append(np.diff(clock))
        full = space.combine(query, np.stack([table @ row for row in query.rows]))
        found.append(np.isin(np.argsort(-full)[: DEPTHS[-1]], near).mean())
    steps = ("features", "short list", "products with those")
    shown = dict(zip(steps, 1000 * np.median(times, axis=0), strict=True))
    shown["all"] = 1000 * float(np.median(np.sum(times, axis=1)))
    size = sum(array.nbytes for array in space.to_arrays().values()) / 1e6
    print(", ".join(f"{name} {value:.2f} ms" for name, value in shown.items()), end="")
    print(f"; {np.mean(found):.4f} of the best {DEPTHS[-1]} of {experts} are among {listed} ({len(asked)} queries); ")
    print(
        f"head {made:.1f} s once, {head.rows.nbytes / 1e6:.0f} MB beside {table.nbytes / 1e6:.0f} MB; "
        f"space {size:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    bench = Bench(Embeddings(None))
    space = bench.space(range(len(bench.tasks)))
    for experts in options.experts:
        speed(bench, space, experts)


if __name__ == "__main__":
    main()
