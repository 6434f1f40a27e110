"""Import adapters from folders on this machine: the originals are copied, never moved or changed."""

import hashlib
import logging
import os
import re
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser

from lora.errors import InvalidAdapter, LoraError
from registry.adapters import upload_adapter
from registry.errors import AppError
from registry.intake import CONFIG, FILES, WEIGHTS, Described, NewFile
from registry.models import Revision

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class Found:
    """A folder that holds an adapter_config.json, and the name it is to get (`owner/name`)."""

    folder: Path
    name: str


@dataclass(frozen=True)
class Refused:
    """Why a folder was not imported: a sentence."""

    reason: str


def find_folders(root: Path, owner: str) -> list[Found]:
    """Every folder at or below `root` with an adapter_config.json, in the order of their paths.

    The name is the path below `root` (for `root` itself its own name), with what a name may not hold made `-`.
    """
    folders = sorted(Path(path) for path, _, files in os.walk(root) if CONFIG in files)
    paths = ["-".join(folder.relative_to(root).parts) or root.resolve().name for folder in folders]
    return [Found(folder, f"{owner}/{_legal(path)}") for folder, path in zip(folders, paths, strict=True)]


def _legal(text: str) -> str:
    """`text` as half of a name; empty where nothing of it can stay."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    name = re.sub(r"\.\.+", ".", name).lstrip("._-")[:96].rstrip("._-")
    return re.sub(r"\.git$", "-git", name, flags=re.IGNORECASE)


def clashes(found: list[Found]) -> dict[Path, Refused]:
    """The folders whose names are equal or differ in case only: none of them can be preferred."""
    counts = Counter(item.name.casefold() for item in found)
    return {
        item.folder: Refused(f"Several folders would be named {item.name}. Rename all but one.")
        for item in found
        if counts[item.name.casefold()] > 1
    }


def import_folder(user: AbstractBaseUser, found: Found, said: Described) -> Revision | Refused:
    """Take in one folder. Files that the registry has in this adapter's newest revision are not taken in again.

    Returns: the revision, whose job may still be to run; or why there is none.
    """
    if not (found.folder / WEIGHTS).is_file():
        hint = f"; {PICKLE} is a pickle: convert it with safetensors first" if (found.folder / PICKLE).is_file() else ""
        return Refused(f"{WEIGHTS} is missing{hint}.")
    try:
        with ExitStack() as copies:
            files = {name: _copy(found.folder / name, copies) for name in FILES if (found.folder / name).is_file()}
            return _rejected_before(found.name, files) or upload_adapter(user, found.name, files, said)[0]
    except InvalidAdapter as error:
        return Refused("; ".join(f"{problem.where}: {problem.message}" for problem in error.problems))
    except (AppError, LoraError, OSError) as error:
        return Refused(str(error))
    except Exception:
        # One folder must not stop the rest, whatever is in it.
        logger.exception("Importing %s failed", found.folder)
        return Refused("Something unexpected went wrong; the log has more.")


def left_out(folder: Path) -> list[str]:
    """The files of a folder that no revision holds, such as an optimizer's state."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in FILES)


def _copy(path: Path, copies: ExitStack) -> NewFile:
    """A copy beside the store, where it can be moved into it; removed with `copies` unless it was."""
    settings.UPLOAD_DIR.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("rb") as source, tempfile.NamedTemporaryFile(dir=settings.UPLOAD_DIR, delete=False) as target:
        copies.callback(Path(target.name).unlink, missing_ok=True)
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return NewFile(Path(target.name), digest.hexdigest())


def _rejected_before(name: str, files: dict[str, NewFile]) -> Revision | None:
    """The newest revision, if it has these very files and they were found unusable: the verdict would be the same."""
    newest = Revision.objects.filter(adapter__full_name=name).first()
    if newest is None or newest.state != Revision.State.REJECTED or newest.problems[0]["where"] == "job":
        return None
    same = {file.path: file.blob_id for file in newest.files.all()} == {path: new.sha256 for path, new in files.items()}
    return newest if same else None
