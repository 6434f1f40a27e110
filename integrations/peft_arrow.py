"""PEFT's Arrow routing with the registry's exact vectors, on a bundle or on adapters that were downloaded from it.

    bundle_model(base, folder)
    arrow_model(base, folders, top_k=4)

PEFT 0.21 finds its prototypes by 15 power iterations from a random start, differently in every run and well off where a
module's first two singular values are close. Here they are those of `GET …/prototypes/arrow/`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft import ArrowConfig, PeftModel, create_arrow_model
from safetensors.torch import load_file

from integrations.bundle import read_manifest

VECTORS = "arrow.safetensors"
ROUTER = "arrow_router"
# Into which PEFT is reached: two private names of its Arrow layer.
CHECKED = "0.21."


def arrow_model(base: Any, folders: Sequence[Path], *, top_k: int = 3, temperature: float = 1.0) -> PeftModel:
    """Load adapters on a base so that every token goes to the `top_k` whose vectors it points along most.

    Args:
        base: the model that the adapters were trained on.
        folders: PEFT folders of one rank and the same targets, each with its vectors as `arrow.safetensors`; exports
            (`archive/?for=peft`) of adapters of several ranks can be given one.
        top_k: experts per token; fewer where there are fewer, which PEFT itself refuses at the first input.
    Raises: ValueError: PEFT's, for folders that do not go together; or vectors that lack a module.
        RuntimeError: another PEFT than the one this was checked with.
    """
    vectors = [load_file(folder / VECTORS) for folder in folders]
    return _routed(base, folders, vectors, top_k, temperature)


def bundle_model(base: Any, folder: Path) -> PeftModel:
    """Load the experts of an unpacked bundle of the router `arrow`, with its `top_k` and temperature.

    Args:
        base: the model that the adapters were trained on.
    Raises: ValueError: a bundle of another router or score; or as `arrow_model`, for one made without `uniform`.
    """
    manifest = read_manifest(folder)
    router = manifest["router"]
    if router["score"] != "abs_dot":
        raise ValueError(f"PEFT has Arrow's |x·v| alone, not {router['score']}. Run it with integrations/bundle.py.")
    stacked = load_file(folder / "prototypes.safetensors")
    vectors = [{path: rows[place] for path, rows in stacked.items()} for place in range(len(manifest["experts"]))]
    folders = [folder / expert["folder"] for expert in manifest["experts"]]
    return _routed(base, folders, vectors, router["top_k"], router["temperature"])


def _routed(
    base: Any, folders: Sequence[Path], vectors: Sequence[dict[str, torch.Tensor]], top_k: int, temperature: float
) -> PeftModel:
    if not peft.__version__.startswith(CHECKED):
        raise RuntimeError(f"This was checked with PEFT {CHECKED}x, not {peft.__version__}.")
    config = ArrowConfig(top_k=min(top_k, len(folders)), router_temperature=temperature)
    model = create_arrow_model(base, [str(folder) for folder in folders], config)
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_arrow"):
            _inject(module, name, vectors)
    return model.eval()


def _inject(module: Any, path: str, vectors: Sequence[dict[str, torch.Tensor]]) -> None:
    lacking = [number for number, own in enumerate(vectors) if path not in own]
    if lacking:
        raise ValueError(f"The vectors of folder {lacking[0]} have none for {path}.")
    router = module.lora_arrow[ROUTER]
    places = [int(name.removeprefix("task_")) for name in router.task_adapter_names]
    weight = module.lora_A[router.task_adapter_names[0]].weight
    prototypes = torch.stack([vectors[place][path] for place in places]).to(weight)
    router.register_buffer("prototypes", prototypes, persistent=False)
    router._protos_ready = True
