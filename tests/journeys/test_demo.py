"""`manage.py demo`, as `make demo` runs it."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.server import ROOT, free_port

pytestmark = pytest.mark.journey


def run_demo(data_dir: Path) -> str:
    env = os.environ | {
        "DATA_DIR": str(data_dir),
        "PORT": str(free_port()),
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    env.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "manage.py", "demo", "--no-serve"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(data_dir: Path) -> dict[str, int]:
    """How many rows each table of the registry has; sessions of workers come and go."""
    with sqlite3.connect(data_dir / "db.sqlite3") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            for table in tables
            if "heartbeat" not in table
        }


def test_the_demo_shows_what_it_promises_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    said = run_demo(tmp_path)
    for task in ("record-to-json", "language-id", "date-format"):
        assert re.search(rf"^ +(?:[5-9]\d|100)%  demo/{task}$", said, re.MULTILINE)
    assert len(re.findall(r"  expert +(?:[89]|10)/10", said)) == 3
    assert len(re.findall(r"  base +[01]/10", said)) == 3
    assert len(re.findall(r"  merge +(?:[2-9]|10)/10", said)) == 2
    login = re.findall(r"^(?:user|password|token) +\S+$", said, re.MULTILINE)
    assert len(login) == 3

    before = rows(tmp_path)
    again = run_demo(tmp_path)
    assert rows(tmp_path) == before
    assert "as answered at" in again
    assert re.findall(r"^(?:user|password|token) +\S+$", again, re.MULTILINE) == login
