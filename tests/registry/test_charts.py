"""Numbers of the pictures."""

import pytest

from registry.views.charts import findings, heatmap, spectrum, split_path


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("model.layers.3.self_attn.q_proj", ("3", "self_attn.q_proj")),
        ("transformer.h.11.attn.c_attn", ("11", "attn.c_attn")),
        ("model.layers.0.mlp.experts.7.w1", ("0", "mlp.experts.*.w1")),
        ("blocks.5", ("5", "blocks")),
        ("lm_head", ("none", "lm_head")),
    ],
)
def test_a_path_names_a_layer_and_a_kind(path, cell):
    assert split_path(path) == cell


def test_the_grid_is_in_the_order_of_the_layers_and_adds_what_shares_a_cell():
    modules = [
        {"path": "m.10.q", "norm": 1.0},
        {"path": "m.2.q", "norm": 2.0},
        {"path": "m.2.experts.0.w", "norm": 3.0},
        {"path": "m.2.experts.1.w", "norm": 4.0},
        {"path": "head", "norm": 0.5},
    ]
    assert heatmap(modules, "norm", "n") == {
        "columns": ["2", "10", "none"],
        "rows": ["q", "experts.*.w", "head"],
        "cells": [[1, 0, 1.0], [0, 0, 2.0], [0, 1, 5.0], [2, 2, 0.5]],
        "label": "n",
    }


def test_the_spectrum_of_a_kind_is_the_median_of_its_modules():
    modules = [
        {"path": "m.0.q", "sigma": [3.0, 1.0]},
        {"path": "m.1.q", "sigma": [5.0, 2.0]},
        {"path": "m.2.q", "sigma": [9.0]},
        {"path": "m.0.v", "sigma": [1.0]},
    ]
    assert spectrum(modules) == {"lines": [{"name": "q", "sigma": [5.0, 1.5]}, {"name": "v", "sigma": [1.0]}]}


def test_without_values_there_is_no_picture():
    modules = [{"path": "m.0.q"}]
    assert heatmap(modules, "norm", "n") is None
    assert spectrum(modules) is None
    assert findings(modules) == []


def test_findings_name_the_largest_and_the_idle_modules():
    modules = [
        {"path": "m.0.q", "norm": 0.0, "rank": 8, "stable_rank": 0.0},
        {"path": "m.1.q", "norm": 2.5, "rank": 8, "stable_rank": 2.0},
    ]
    text = " ".join(findings(modules))
    assert "m.1.q" in text
    assert "1 of 2 modules change nothing" in text
    assert "2 of 8" in text
