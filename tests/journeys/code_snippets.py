"""Runs the code that a page offers to copy, as a person would who pastes it into a shell."""

import ast
import json
import os
import subprocess
import sys
from typing import Any

from playwright.sync_api import Page


def run_copied(page: Page, token: str = "") -> tuple[Any, Any]:
    """What the curl command and the Python program in `#snippets` print."""
    curl, python = page.locator("#snippets pre code").all_text_contents()
    env = os.environ | {"LORADEX_TOKEN": token}
    by_curl = json.loads(_output(["bash", "-c", curl], env))
    by_python = ast.literal_eval(_output([sys.executable, "-c", python], env))
    return by_curl, by_python


def _output(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
