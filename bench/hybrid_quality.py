"""What the hybrid router finds: `python -m bench.hybrid_quality [--cache FILE] [--queries N]`.

The pool always holds all 103 tasks of tests/data/retrieval_dev. Settings were chosen on the queries of the tasks at
even places; the others and all are printed beside them. Wrapped queries are in wrappers that no fit has seen.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import django
import numpy as np

from bench.other_words import HARDER, REWORDED, WRAPPERS, far_kinds, far_texts
from lora.hybrid.abstention import DEPTH
from lora.hybrid.background import load_background, load_far
from lora.hybrid.fitting import Background, Labelled, fit
from lora.hybrid.space import HybridSpace, Query
from lora.hybrid.wrappers import spans, unwrap
from lora.routers.hybrid import HybridParams
from tests.retrieval.dataset import DEPTHS, FOLDER, load_tasks

ZOO = Path(__file__).parents[1] / "examples" / "zoo"


def encode(texts: list[str]) -> np.ndarray:
    """Rows of texts as the space takes them, from the default encoder."""
    from retrieval.encoders import find_encoder
    from retrieval.hybrid import encoded_texts

    return encoded_texts(find_encoder(""), texts)


class Embeddings:
    """Rows of texts as the space takes them, computed once each; kept in a file where one is named."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._rows: dict[str, np.ndarray] = {}
        if cache and cache.exists():
            with np.load(cache, allow_pickle=False) as kept:
                texts = json.loads(bytes(kept["texts"]).decode())
                self._rows = dict(zip(texts, kept["rows"], strict=True))

    def __call__(self, texts: list[str]) -> np.ndarray:
        if missing := [text for text in dict.fromkeys(texts) if text not in self._rows]:
            self._encode(sorted(missing, key=len))
        return np.stack([self._rows[text] for text in texts])

    def _encode(self, texts: list[str]) -> None:
        self._rows.update(zip(texts, encode(texts), strict=True))
        if self._cache:
            listed = np.frombuffer(json.dumps(list(self._rows)).encode(), np.uint8)
            np.savez(self._cache, texts=listed, rows=np.stack(list(self._rows.values())))


class Bench:
    """The suite, its embeddings, and what they make."""

    def __init__(self, embed: Embeddings) -> None:
        self.embed = embed
        self.tasks = load_tasks(core_only=False)
        self.samples = [[unwrap(text) for text in task.samples] for task in self.tasks]
        self.background = load_background()

    def space(self, members: Sequence[int], samples: int = 20, strangers: Sequence[int] = ()) -> HybridSpace:
        """The space of the background without some tasks, and of the samples of others."""
        hidden = {self.tasks[i].name for i in strangers}
        shown = [task.texts for task in self.background if task.name not in hidden]
        own = [text for i in members for text in self.samples[i][:samples]]
        return self.fitted(Labelled(own, self.embed(own), np.repeat(members, samples)) if own else None, shown)

    def fitted(self, pool: Labelled | None, shown: list[list[str]] | None = None) -> HybridSpace:
        """The space of some background texts, by default all, and of a pool."""
        shown = shown or [task.texts for task in self.background]
        return fit(Background.encoded(shown, [kind.texts for kind in load_far()], self.embed), pool)

    def experts(self, space: HybridSpace, samples: int = 20) -> np.ndarray:
        """The rows (103, width) of all tasks."""
        parts = [part[:samples] for part in self.samples]
        return np.stack([space.expert_row(self.embed(part), part) for part in parts])

    def ask(self, space: HybridSpace, experts: np.ndarray, texts: list[str]) -> tuple[np.ndarray, list[Query]]:
        """Scores (n, experts) of queries, and each of them in the space."""
        asked = [spans(text) for text in texts]
        self.embed([span for parts in asked for span in parts])
        rows = [space.query(self.embed(parts), parts) for parts in asked]
        scores = np.array([space.combine(part, (part.rows @ experts.T).astype(np.float64)) for part in rows])
        return scores, rows

    def categories(self) -> list[str]:
        """The category of each task."""
        with (FOLDER / "tasks.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line)["category"] for line in lines]

    def queries(self, picked: slice) -> tuple[list[str], np.ndarray]:
        """Some queries of every task, and their tasks (n,)."""
        parts = [task.queries[picked] for task in self.tasks]
        return [text for part in parts for text in part], np.repeat(
            np.arange(len(parts)), [len(part) for part in parts]
        )


def rates(scores: np.ndarray, own: np.ndarray, among: np.ndarray | slice = slice(None)) -> str:
    """Top-1/3/8 in percent, of queries among some."""
    ranks = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)[among]
    return " / ".join(f"{100 * (ranks < depth).mean():.1f}" for depth in DEPTHS)


def line(name: str, scores: np.ndarray, own: np.ndarray) -> None:
    even = own % 2 == 0
    print(f"| {name} | {rates(scores, own, even)} | {rates(scores, own, ~even)} | {rates(scores, own)} |", flush=True)


def auroc(present: np.ndarray, absent: np.ndarray) -> float:
    """The probability that one of the first is above one of the second."""
    order = np.searchsorted(np.sort(absent), present, "left") + np.searchsorted(np.sort(absent), present, "right")
    return float(order.mean() / 2 / len(absent))


def clean(bench: Bench, space: HybridSpace, picked: slice) -> None:
    """All bars on queries as they are."""
    texts, own = bench.queries(picked)
    everybody = range(len(bench.tasks))
    print(f"{len(texts)} queries, top-1/3/8\n| | tasks chosen on | other tasks | all |\n|---|---|---|---|")
    scores, rows = bench.ask(space, bench.experts(space), texts)
    line("as served", scores, own)
    whole = np.array([part.rows[0] for part in rows]) @ bench.experts(space).T
    line("without spans", whole, own)
    shipped = bench.space([])
    few = bench.experts(space, 5)
    line("5 samples an expert, same space", bench.ask(space, few, texts)[0], own)
    small = bench.space(everybody, 5)
    line("5 samples an expert, space of those", bench.ask(small, bench.experts(small, 5), texts)[0], own)
    alone = bench.ask(shipped, bench.experts(shipped), texts)[0]
    line("space of the background alone", alone, own)
    names = {task.name for task in bench.background}
    strange = np.array([bench.tasks[i].name not in names for i in own])
    print(f"its queries of tasks that are not in the background: {rates(alone, own, strange)}; ", end="")
    print(f"the same, as served: {rates(scores, own, strange)}")
    for late in (0, 1):
        early = [i for i in everybody if i % 2 != late]
        frozen = bench.space(early, strangers=[i for i in everybody if i % 2 == late])
        found = bench.ask(frozen, bench.experts(frozen), texts)[0]
        print(f"late experts (half {late}): {rates(found, own, own % 2 == late)}; refitted ", end="")
        print(rates(scores, own, own % 2 == late), flush=True)
    reliability(space, scores, own)
    abstention(bench, space, scores, rows, own)


def reliability(space: HybridSpace, scores: np.ndarray, own: np.ndarray) -> None:
    """Posterior of the best expert against how often it is right."""
    posterior = np.array([space.posterior(row) for row in scores])
    right, sure = posterior.argmax(axis=1) == own, posterior.max(axis=1)
    bins = np.minimum((sure * 5).astype(int), 4)
    shown = [
        (sure[bins == i].mean(), right[bins == i].mean(), (bins == i).sum()) for i in range(5) if (bins == i).any()
    ]
    error = sum(count * abs(said - was) for said, was, count in shown) / len(own)
    print(
        f"temperature {space.temperature:.1f}, calibration error {100 * error:.1f} points; said → was (queries): ",
        end="",
    )
    print(", ".join(f"{100 * said:.0f} → {100 * was:.0f} ({count})" for said, was, count in shown))


def judged(bench: Bench, space: HybridSpace, experts: np.ndarray, texts: list[str]) -> np.ndarray:
    """How familiar texts are, and how probable it is that their expert is there: (n, 2)."""
    return thought(space, experts, *bench.ask(space, experts, texts))


def thought(space: HybridSpace, experts: np.ndarray, asked: np.ndarray, queries: list[Query]) -> np.ndarray:
    """The same of queries whose scores (n, experts) are known."""
    found = []
    for scores, query in zip(asked, queries, strict=True):
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        judgement = space.judge(scores[best], query, experts[best[0]])
        found.append((judgement.familiar, judgement.fits))
    return np.array(found)


def refused(space: HybridSpace, found: np.ndarray) -> float:
    """Share, in percent, of judged texts that the router abstains from."""
    return 100 * float(((found[:, 0] < space.abstention.threshold) | (found[:, 1] < HybridParams().min_fit)).mean())


def abstention(bench: Bench, space: HybridSpace, scores: np.ndarray, rows: list[Query], own: np.ndarray) -> None:
    """False abstention, far queries caught, and near ones with half of the tasks or categories in the pool."""
    experts = bench.experts(space)
    present, far = thought(space, experts, scores, rows), judged(bench, space, experts, far_texts())
    exact = np.quantile(present[own % 2 == 0][:, 0], 0.05)
    print(f"false abstention {refused(space, present):.1f} %, {len(far)} far queries caught ", end="")
    print(f"{refused(space, far):.1f} %; at 5 % exactly: {100 * (far[:, 0] < exact).mean():.1f} %")
    kinds = np.unique(bench.categories(), return_inverse=True)[1]
    for name, groups in (("task", np.arange(len(kinds))), ("category", kinds)):
        inside = groups % 2 == 0
        here = inside[own]
        found = thought(space, experts[inside], scores[:, inside], rows)[:, 1]
        caught = (found[~here] < np.quantile(found[here], 0.05)).mean()
        print(
            f"near queries by {name}: AUROC {auroc(found[here], found[~here]):.3f}, {100 * caught:.0f} % caught at 5 %"
        )


def small(bench: Bench) -> None:
    """Abstention where there are the 12 experts of the zoo, or 3 of them."""
    names = sorted(REWORDED)
    samples = [[unwrap(text) for text in inputs(name, "samples")] for name in names]
    lines = [inputs(name, "test")[:20] for name in names]
    asked = {
        "as trained": lines,
        "without the instruction": [[line.split("\n", 1)[1] for line in part] for part in lines],
        "reworded": [REWORDED[name] for name in names],
    }
    strangers = bench.queries(slice(0, 50, 25))[0]
    own = Labelled([text for part in samples for text in part], bench.embed([t for p in samples for t in p]),
                   np.repeat(np.arange(len(names)), [len(part) for part in samples]))  # fmt: skip
    for title, space in (("fitted to it", bench.fitted(own)), ("not yet fitted to it", bench.fitted(None))):
        experts = np.stack([space.expert_row(bench.embed(part), part) for part in samples])
        print(f"zoo, space {title}, refused:", end="")
        for name, parts in asked.items():
            found = refused(space, judged(bench, space, experts, [text for part in parts for text in part]))
            three = [
                judged(bench, space, experts[[i, (i + 4) % 12, (i + 7) % 12]], part) for i, part in enumerate(parts)
            ]
            print(f" {name} {found:.1f} % (3 experts: {refused(space, np.vstack(three)):.1f} %),", end="")
        far = judged(bench, space, experts, far_texts())
        print(f" far {refused(space, far):.1f} % (3: ", end="")
        print(f"{refused(space, judged(bench, space, experts[[0, 4, 7]], far_texts())):.1f} %), ", end="")
        strange = judged(bench, space, experts, strangers)
        print(f"queries of retrieval_dev {refused(space, strange):.1f} %", end="")
        print(f", with min_fit 0.1 {100 * (strange[:, 1] < 0.1).mean():.1f} %", flush=True)
    foreign(bench, space)


def foreign(bench: Bench, space: HybridSpace) -> None:
    """Late experts for a far kind, of all its texts but one, which is asked."""
    kinds = [part for part in far_kinds() if len(part) > 2]
    found = []
    for place in range(3):
        kept = [[unwrap(text) for i, text in enumerate(part) if i != place] for part in kinds]
        experts = np.stack([space.expert_row(bench.embed(part), part) for part in kept])
        found.append(judged(bench, space, experts, [part[place] for part in kinds]))
    print(f"late experts for {len(kinds)} far kinds, 2 samples each: own queries refused ", end="")
    print(f"{refused(space, np.vstack(found)):.1f} %")


def inputs(name: str, file: str) -> list[str]:
    with (ZOO / name / f"{file}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["input"] for line in lines]


def wrapped(bench: Bench, space: HybridSpace, picked: slice) -> None:
    """Top-1 of queries in wrappers."""
    texts, own = bench.queries(picked)
    experts = bench.experts(space)
    found = {}
    for name, wrap in (WRAPPERS | HARDER).items():
        scores = bench.ask(space, experts, [wrap(text) for text in texts])[0]
        found[name] = 100 * float((scores.argmax(axis=1) == own).mean())
        print(f"| {name} | {rates(scores, own)} |", flush=True)
    bars = [found[name] for name in WRAPPERS]
    print(f"mean of the first {len(bars)}: {np.mean(bars):.1f}, worst {min(bars):.1f} ({len(texts)} queries each)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="file (.npz) that keeps the embeddings")
    parser.add_argument("--queries", type=int, default=50, help="queries of each task, 1 to 50")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    bench = Bench(Embeddings(options.cache))
    started = time.process_time()
    space = bench.space(range(len(bench.tasks)))
    print(f"fit {time.process_time() - started:.1f} s of CPU, encoding included where it was not cached")
    clean(bench, space, slice(0, options.queries))
    small(bench)
    wrapped(bench, space, slice(0, 50, 10))


if __name__ == "__main__":
    main()
