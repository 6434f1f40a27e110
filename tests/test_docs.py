"""What the documents say is what the code has."""

import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from config import http_errors
from lora.merges import MERGES
from lora.merging import OutputSpec
from lora.routers import ROUTERS
from lora.trial_routers import TRIAL_ROUTERS
from registry.intake import FILES
from tests.lora.factories import write_adapter_files
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import run_merge

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")]
READ = re.compile(r"""\b(?:ENV|env|environ)(?:\.get\(|\[)["']([A-Z][A-Z0-9_]+)["']""")
# Set by our own processes for each other or for a library, never by an operator.
OURS = {"HF_HUB_OFFLINE", "LORADEX_WORKER", "LORADEX_WEB_THREADS", "DJANGO_SETTINGS_MODULE"}
# Read by boto3 itself.
BOTO3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def text_of(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def variables() -> list[str]:
    found = {name for path in (ROOT / "config").rglob("*.py") for name in READ.findall(path.read_text())}
    return sorted(found - OURS)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", variables())
def test_every_variable_is_in_the_example_and_in_the_docs(name: str) -> None:
    assert re.search(rf"^(# )?{name}=", text_of(".env.example"), re.MULTILINE)
    assert f"`{name}`" in text_of("docs", "howto", "operate.md")


def test_the_example_names_no_variable_that_nobody_reads() -> None:
    assert set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.MULTILINE)) <= {
        *variables(),
        *BOTO3,
    }


@pytest.mark.parametrize(
    ("page", "name"),
    [("merge.md", name) for name in MERGES.names()]
    + [("retrieve.md", name) for name in sorted({*ROUTERS.names(), *TRIAL_ROUTERS.names()})],
)
def test_every_method_is_in_its_howto(page: str, name: str) -> None:
    assert f"| `{name}` |" in text_of("docs", "howto", page)


@pytest.mark.parametrize("code", sorted(set(http_errors.CODE_BY_STATUS.values()) | {"internal"}))
def test_every_error_code_of_http_is_documented(code: str) -> None:
    assert f"`{code}`" in text_of("docs", "api.md")


@pytest.mark.parametrize("file", FILES)
def test_every_file_of_an_upload_is_documented(file: str) -> None:
    assert f"`{file}`" in text_of("docs", "howto", "upload.md")


def test_every_make_command_in_the_docs_is_a_target() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    targets = {name for part in code for name in re.findall(r"(?:^|\s)make ([a-z]+)", part)}
    assert {"demo", "serve", "test"} <= targets
    for target in targets:
        asked = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr


def test_every_management_command_in_the_docs_exists() -> None:
    commands = {path.stem for path in ROOT.glob("*/management/commands/[a-z]*.py")}
    commands |= {"changepassword", "check", "migrate"}
    said = {name for page in PAGES for name in re.findall(r"manage\.py ([a-z_]+)", page.read_text(encoding="utf-8"))}
    assert "import_folder" in said
    assert said <= commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_the_worked_example_is_a_merge_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the howto, registered as it would be, gives what its formula says."""
    (source,) = blocks(ROOT / "docs" / "howto" / "add-a-merge-method.md", "python")
    monkeypatch.setattr(MERGES, "_methods", dict(MERGES._load()))
    module = types.ModuleType("lora.merges.magmax")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "magmax.py", "exec"), module.__dict__)
    folders = [write_adapter_files(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    run_merge(tmp_path / "out", folders, "magmax", params={"scale": 0.5}, output=OutputSpec("exact"))
    first, second = map(read_deltas, folders)
    for path, delta in read_deltas(tmp_path / "out").items():
        wanted = 0.5 * np.where(np.abs(first[path]) >= np.abs(second[path]), first[path], second[path])
        assert relative_error(delta, wanted) < 1e-5
