"""Import adapters from folders on this machine: the originals are copied, never moved or changed."""

import hashlib
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser

from lora.errors import InvalidAdapter, LoraError
from registry.accounts import create_user
from registry.adapters import open_adapter, upload_adapter
from registry.errors import AppError
from registry.intake import CONFIG, FILES, WEIGHTS, Described, Judged, NewFile, judge_files
from registry.models import ImportedFolder, Namespace, Revision
from registry.names import split_name

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
PICKLE = "adapter_model.bin"
Kind = ImportedFolder.Outcome


@dataclass(frozen=True)
class Found:
    """A folder that holds an adapter_config.json, and the name it is to get (`owner/name`).

    `path` is relative to the directory that was searched. `refusal`: why it cannot be imported, whatever it holds.
    """

    root: Path
    path: str
    name: str
    refusal: str = ""

    @property
    def folder(self) -> Path:
        return self.root / self.path


@dataclass(frozen=True)
class Outcome:
    """What became of a folder; `reason` is a sentence where it was refused."""

    kind: Kind
    reason: str = ""
    revision: Revision | None = None
    rank: int | None = None
    warnings: list[str] = field(default_factory=list)


def find_folders(root: Path, owner: str, on_error: Callable[[OSError], None] | None = None) -> list[Found]:
    """Every folder at or below `root` with an adapter_config.json, in the order of their paths.

    The name is the path below `root` (for `root` itself its own name), with what a name may not hold made `-`. Links
    to folders are not followed; one that leads to an adapter is refused, as are folders that would share a name.
    `on_error` is told what cannot be read.
    """
    found = []
    for path, folders, files in os.walk(root, onerror=on_error):
        folders.sort()
        linked = [name for name in folders if Path(path, name).is_symlink() and Path(path, name, CONFIG).is_file()]
        if CONFIG in files:
            found.append(_found(root, Path(path), owner))
        for name in linked:
            refusal = "It is a link to a folder, and links are not followed. Import the folder it leads to."
            found.append(replace(_found(root, Path(path, name), owner), refusal=refusal))
    return sorted(_without_clashes(found), key=lambda item: item.path)


def _found(root: Path, folder: Path, owner: str) -> Found:
    path = folder.relative_to(root)
    name = _legal("-".join(path.parts) or root.resolve().name)
    return Found(root, str(path), f"{owner}/{name}")


def _legal(text: str) -> str:
    """`text` as half of a name; empty where nothing of it can stay."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    name = re.sub(r"\.\.+", ".", name).lstrip("._-")[:96].rstrip("._-")
    return re.sub(r"\.git$", "-git", name, flags=re.IGNORECASE)


def _without_clashes(found: list[Found]) -> list[Found]:
    """Where names are equal or differ in case only, none of the folders can be preferred."""
    counts = Counter(item.name.casefold() for item in found)
    return [
        replace(item, refusal=f"Several folders would be named {item.name}. Rename all but one.")
        if counts[item.name.casefold()] > 1
        else item
        for item in found
    ]


def look_at(user: AbstractBaseUser | None, found: Found) -> Outcome:
    """What an import would make of the folder, from config and header alone; nothing is stored.

    `user`: the owner of the namespace; None where it would be made.
    """
    if refusal := found.refusal or _incomplete(found):
        return Outcome(Kind.REFUSED, refusal)
    judged = Judged()
    try:
        with judged.noting():
            open_adapter(user, found.name) if user else split_name(found.name)
        judge_files(judged, {name: NewFile(found.folder / name, "") for name in _names(found)}, Described())
    except OSError as error:
        return Outcome(Kind.REFUSED, str(error))
    rank = judged.verdict.facts["rank"] if judged.verdict else None
    warnings = [warning["code"] for warning in judged.warnings]
    reason = " ".join(_sentence(refusal) for refusal in judged.refusals)
    return Outcome(Kind.REFUSED if reason else Kind.FITS, reason, rank=rank, warnings=warnings)


def import_folder(user: AbstractBaseUser, found: Found, said: Described) -> Outcome:
    """Take in one folder. Files that the registry has in this adapter's newest revision are not taken in again.

    The revision's own job may still be to run.
    """
    if refusal := found.refusal or _incomplete(found):
        return Outcome(Kind.REFUSED, refusal)
    newest = Revision.objects.filter(adapter__full_name=found.name).defer("modules").first()
    try:
        with ExitStack() as copies:
            files = {name: _copy(found.folder / name, copies) for name in _names(found)}
            revision = _rejected_before(newest, files) or upload_adapter(user, found.name, files, said)[0]
    except (AppError, LoraError, OSError) as error:
        return Outcome(Kind.REFUSED, _sentence(error))
    except Exception:
        # One folder must not stop the rest, whatever is in it.
        logger.exception("Importing %s failed", found.folder)
        return Outcome(Kind.REFUSED, "Something unexpected went wrong; the log has more.")
    kind = Kind.KNOWN if newest and revision.pk <= newest.pk else Kind.TAKEN
    warnings = [warning["code"] for warning in revision.warnings]
    return Outcome(kind, revision=revision, rank=revision.summary["rank"], warnings=warnings)


def _sentence(error: Exception) -> str:
    """What is wrong; what is wrong alike in many modules is said once."""
    if not isinstance(error, InvalidAdapter):
        return str(error)
    places: dict[str, list[str]] = {}
    for problem in error.problems:
        places.setdefault(problem.message, []).append(problem.where)
    return " ".join(_at(where, message) for message, where in places.items())


def _at(where: list[str], message: str) -> str:
    more = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return f"{where[0]}{more}: {message}" if where[0] else message


def _names(found: Found) -> list[str]:
    return [name for name in FILES if (found.folder / name).is_file()]


def _incomplete(found: Found) -> str:
    """Why the folder is no adapter to read: weights that are missing, or files that lie outside of `root`."""
    if not (found.folder / WEIGHTS).is_file():
        hint = f"; {PICKLE} is a pickle: convert it with safetensors first" if (found.folder / PICKLE).is_file() else ""
        return f"{WEIGHTS} is missing{hint}."
    root = found.root.resolve()
    outside = [name for name in _names(found) if not (found.folder / name).resolve().is_relative_to(root)]
    return f"{', '.join(outside)} is a link that leads out of {root}. Copy the file into the folder." if outside else ""


def size_of(found: Found) -> int:
    """Bytes of the files that a revision would hold."""
    return sum((found.folder / name).stat().st_size for name in _names(found))


def left_out(folder: Path) -> list[str]:
    """The files of a folder that no revision holds, such as an optimizer's state."""
    return sorted(printable(path.name) for path in folder.iterdir() if path.is_file() and path.name not in FILES)


def printable(name: str) -> str:
    """A file's name or path with what is not UTF-8 replaced, so that it can be stored and shown."""
    return name.encode(errors="replace").decode()


def namespace_owner(name: str) -> AbstractBaseUser:
    """The user who owns the namespace; a new one without a password if there is none.

    Raises: Invalid, AlreadyExists.
    """
    namespace = Namespace.objects.select_related("owner").filter(name=name).first()
    return namespace.owner if namespace else create_user(name)


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


def _rejected_before(newest: Revision | None, files: dict[str, NewFile]) -> Revision | None:
    """The newest revision, if it has these very files and they were found unusable: the verdict would be the same."""
    if newest is None or newest.state != Revision.State.REJECTED or newest.problems[0]["where"] == "job":
        return None
    same = {file.path: file.blob_id for file in newest.files.all()} == {path: new.sha256 for path, new in files.items()}
    return newest if same else None
