"""Train PHATGOOSE gates for experts: a vector per module that says which tokens the expert is for.

    python examples/gates.py examples/zoo/*/

Each folder needs adapter_config.json, adapter_model.safetensors and samples.jsonl with outputs; gates.safetensors is
written beside them, ready for upload. About a minute each on two idle cores that know bfloat16.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora.examples import Example
from lora.folder import check_folder, find_adapter
from lora.losses import ends
from lora.prototypes.phatgoose import Gates, train_gates
from lora.runtime.loading import as_running_base, in_bfloat16, load_running_base
from lora.runtime.probe import RunningBase
from lora.weights import AdapterFile


def train(base: RunningBase, folder: Path) -> Gates:
    """Gates of the adapter in a folder, by its samples."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    found = find_adapter(folder)
    with AdapterFile(found.weights, check_folder(found).layout) as file:
        return train_gates(base, file, [Example.from_json(json.loads(line)) for line in lines if line.strip()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, help="what save_pretrained wrote of a base; else SmolLM2 of its package")
    options = parser.parse_args()
    if options.base:
        base = load_running_base(options.base)
    else:
        from smollm2 import load_base  # noqa: PLC0415 - wants the package

        base = as_running_base(*load_base())
    base = in_bfloat16(base)
    for folder in options.folders:
        started = time.process_time()
        gates = train(base, folder)
        vectors = {path: gate.bfloat16() for path, gate in gates.vectors.items()}
        save_file(vectors, folder / "gates.safetensors", metadata=gates.facts)
        first, last = ends(gates.losses)
        seconds = time.process_time() - started
        print(f"{folder.name}: loss {first:.3f} -> {last:.3f}, {seconds:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
