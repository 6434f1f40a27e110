"""How many processes serve the site, and how they share the cores."""

import os
import runpy
from pathlib import Path

import pytest

CONFIG = str(Path(__file__).resolve().parents[2] / "config" / "gunicorn.py")


@pytest.fixture
def with_env(monkeypatch):
    def run(**env):
        kept = {name: value for name, value in os.environ.items() if name not in ("WEB_CONCURRENCY", "OMP_NUM_THREADS")}
        monkeypatch.setattr(os, "environ", kept | env)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        return runpy.run_path(CONFIG)

    return run


@pytest.mark.parametrize(("env", "expected"), [({}, 1), ({"WEB_CONCURRENCY": ""}, 1), ({"WEB_CONCURRENCY": "3"}, 3)])
def test_processes_are_as_many_as_wanted(with_env, env, expected):
    assert with_env(**env)["workers"] == expected


def test_processes_share_the_cores(with_env):
    with_env(WEB_CONCURRENCY="4")
    assert os.environ["OMP_NUM_THREADS"] == "2"
    with_env(WEB_CONCURRENCY="20")
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_one_process_has_all_cores_and_what_is_set_stays(with_env):
    with_env()
    assert "OMP_NUM_THREADS" not in os.environ
    with_env(WEB_CONCURRENCY="4", OMP_NUM_THREADS="3")
    assert os.environ["OMP_NUM_THREADS"] == "3"
