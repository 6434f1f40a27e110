"""PEFT's `add_weighted_adapter("svd")` on one decoder layer: it wants a base model, and gets a dummy one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from bench.shapes import RANK


class DummyBase(nn.Module):
    """One decoder layer's linear modules, under the names of a Llama."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        layer = nn.Module()
        for path, (d_out, d_in) in shapes.items():
            parent, name = path.split(".")
            if not hasattr(layer, parent):
                layer.add_module(parent, nn.Module())
            layer.get_submodule(parent).add_module(name, nn.Linear(d_in, d_out, bias=False))
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([layer])


def merge_with_peft(folders: Sequence[Path], shapes: Mapping[str, tuple[int, int]]) -> tuple[float, float]:
    """Merge adapters of one layer to their mean; return (seconds, CPU seconds), without reading the files."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(DummyBase(shapes), folders[0], adapter_name="0")
    for i, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(i))
    names = [str(i) for i in range(len(folders))]
    start, start_cpu = time.perf_counter(), time.process_time()
    model.add_weighted_adapter(names, [1 / len(names)] * len(names), "merged", combination_type="svd", svd_rank=RANK)
    return time.perf_counter() - start, time.process_time() - start_cpu
