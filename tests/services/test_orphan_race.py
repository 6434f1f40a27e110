"""The removal of orphans never takes what somebody is storing at that moment: I1, I8."""

import os
import subprocess
import sys

import pytest

from tests.journeys.server import ROOT


@pytest.mark.parametrize("backing", ["embedded", "services"])
def test_content_that_is_stored_again_while_it_is_removed_stays(backing, new_services, tmp_path):
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings", "DATA_DIR": str(tmp_path)}
    env |= new_services() if backing == "services" else {}
    race = "from tests.services.orphan_race import main; main()"
    for command in (["migrate", "--verbosity", "0"], ["shell", "--no-imports", "-c", race]):
        program = [sys.executable, "manage.py", *command]
        done = subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
