"""Tests that ran on SQLite, once more on PostgreSQL: the job's states, its ends, the REST contract, hostile input."""

import os
import subprocess
import sys

from tests.journeys.server import ROOT

FILES = (
    "tests/registry/test_jobs.py",
    "tests/workers/test_runner.py",
    "tests/api/test_adapters.py",
    "tests/api/test_bad_input.py",
    "tests/api/test_hostile_text.py",
)


def test_jobs_and_the_rest_contract_are_the_same_on_postgresql(postgres):
    # pytest makes, and drops, a database of its own beside this one.
    env = os.environ | {"SUITE_DATABASE_URL": postgres.new_database("suite")}
    command = [sys.executable, "-m", "pytest", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
