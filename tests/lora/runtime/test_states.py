"""What enters modules, against the running model's own numbers."""

import numpy as np
import pytest
import torch

from lora.runtime.adapted import DoesNotFit
from lora.runtime.states import module_states
from lora.runtime.text import PROMPT
from tests.lora.runtime.tiny_language_model import ids, running_base

PATHS = ["layers.0.q", "layers.0.v", "layers.1.q"]


def test_rows_are_the_activations_of_the_prompt_in_order() -> None:
    base = running_base()
    states = module_states(base, "abc", PATHS)
    tokens = ids(PROMPT.replace("{line}", "abc"))
    embedded = base.model.embed(torch.tensor(tokens)).numpy()
    assert list(states) == PATHS
    assert states["layers.0.q"] == pytest.approx(embedded.astype(np.float32))
    assert states["layers.0.q"] is states["layers.0.v"]
    assert states["layers.1.q"].shape == states["layers.0.q"].shape
    assert not np.allclose(states["layers.1.q"], states["layers.0.q"])


def test_nothing_stays_on_the_model_and_strangers_are_refused() -> None:
    base = running_base()
    with pytest.raises(DoesNotFit, match=r"layers\.9\.q"):
        module_states(base, "abc", ["layers.0.q", "layers.9.q"])
    with pytest.raises(DoesNotFit, match="embed"):
        module_states(base, "abc", ["embed"])
    assert not any(module._forward_pre_hooks for module in base.model.modules())
