"""How often routers that run experts put the task's own first: on the zoo, with the instruction and without.

    python -m bench.trial_routers [--lines 5] [--draws 3]

Prints top-1 and top-3 in percent over all twelve tasks and draws, and for `lorahub` the loss of the answers before and
after; what a draw of test lines takes in seconds.
"""

import argparse
import time

import numpy as np

from bench.trials import EXPERTS, candidate, lines_of
from examples.smollm2 import GGUF, gguf_folder
from lora.runtime.adapted import AdaptedModel
from lora.runtime.loading import load_running_base
from lora.runtime.probe import Probe, RunningBase
from lora.trial_routers import TRIAL_ROUTERS, Tried, trial_entries
from lora.weights import AdapterFile

POOL = 40  # test lines that are drawn from


def ranked(base: RunningBase, name: str, params: dict[str, object], lines: int, draws: int) -> None:
    """Print what one router makes of every task."""
    router = TRIAL_ROUTERS.get(name).run(TRIAL_ROUTERS.parse(name, params))
    items = [candidate(expert) for expert in EXPERTS]
    files = [AdapterFile(item.weights_path, item.layout).__enter__() for item in items]
    draw = np.random.default_rng(0)
    for instruction in (False, True):
        places, losses, started, count = [], [], time.perf_counter(), 0
        with AdaptedModel(base.model, files) as adapted:
            probe = Probe(base, adapted, items, [0.0] * len(items))
            for own, task in enumerate(EXPERTS):
                pool = lines_of(task, POOL, instruction=instruction)
                for _ in range(draws):
                    chosen = [pool[i] for i in draw.choice(len(pool), lines, replace=False)]
                    found: Tried = router.rank(probe, chosen, explain=False)
                    places.append(int((found.scores > found.scores[own]).sum()))
                    losses += [(found.loss["before"], found.loss["after"])] if found.loss else []
                    count += 1
        took = (time.perf_counter() - started) / count
        top = [100 * np.mean(np.array(places) < k) for k in (1, 3)]
        what = "with" if instruction else "without"
        said = "" if not losses else " loss {:.2f} -> {:.2f}".format(*np.mean(losses, axis=0))
        print(f"{name} {params or ''} {what} instruction: {top[0]:.0f} / {top[1]:.0f}{said}, {took:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    running = load_running_base(gguf_folder(), gguf=GGUF)
    for name, params in trial_entries().values():
        ranked(running, name, params, given.lines, given.draws)
