"""Taking in a composition: what a request names, whether the gates fit the experts, and one more version."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction

from lora.composing import (
    GATES,
    MANIFEST,
    README,
    RUNTIME,
    ComposedExpert,
    Modules,
    check_gates,
    manifest_of,
    value_problems,
)
from lora.composition_readme import readme
from lora.compositions import COMPOSITIONS
from lora.errors import InvalidAdapter, Problem
from lora.header import read_header
from registry.accounts import own_namespace
from registry.errors import AlreadyExists, Conflict, Invalid, InvalidVectors
from registry.intake import CONFIG, NewFile, check_described
from registry.intake import Described as Said
from registry.merges import described_files
from registry.models import Blob, Revision
from registry.names import split_name
from registry.queries import Caller, find_base_model
from registry.serving import base_modules
from registry.storage import put_bytes, put_file
from retrieval.bundles import check_together, find_expert, listed
from retrieval.models import Composition, CompositionExpert, CompositionFile

FIELDS = frozenset({"name", "type", "adapters", "base_model", "params", "visibility", "description", "train"})
SHOWN_PROBLEMS = 20
RUNNER = Path(__file__).resolve().parents[1] / "lora" / "runtime" / "composed.py"


@dataclass(frozen=True)
class Order:
    """A checked request: `params` are complete, `revisions` in order."""

    name: str
    type: str
    params: dict[str, Any]
    revisions: tuple[Revision, ...]
    visibility: str = "public"
    description: str = ""

    @property
    def base_model(self) -> str:
        return self.revisions[0].base_model


def parse_order(user: Caller, payload: Any) -> Order:
    """The composition that a request describes, without its gates.

    Raises: Invalid, UnknownComposition, InvalidParams; PermissionRefused, AlreadyExists: the name; NotFound,
        Conflict: an adapter; NotRoutable: experts that cannot be run beside each other.
    """
    if not isinstance(payload, dict) or not set(payload) <= FIELDS:
        raise Invalid(f"A composition is an object with {', '.join(sorted(FIELDS))}, and nothing else.")
    given = {name: value for name, value in payload.items() if value is not None}
    for field in ("name", "type"):
        if not isinstance(given.get(field), str):
            raise Invalid(f"{field} is missing, or no text.", detail={field: "missing"})
    params = asdict(COMPOSITIONS.parse(given["type"], given.get("params", {})))
    check_name(user, given["name"])
    items = listed(given.get("adapters"))
    texts = {name: given.get(name, default) for name, default in (("visibility", "public"), ("description", ""))}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise Invalid(f"{name} is no text.", detail={name: "no text"})
    check_described(Said(**texts))
    revisions = tuple(find_expert(user, place, item) for place, item in enumerate(items))
    check_together(revisions)
    _check_base(given.get("base_model"), revisions[0].base_model)
    return Order(given["name"], given["type"], params, revisions, **texts)


def check_name(user: AbstractBaseUser, full_name: str) -> None:
    """Raises: Invalid; PermissionRefused: another's namespace; AlreadyExists: one that differs in case only."""
    own_namespace(user, split_name(full_name)[0])
    other = Composition.objects.filter(key=full_name.casefold()).exclude(full_name=full_name).first()
    if other:
        raise AlreadyExists(
            f"{other.full_name} exists and differs only in case. Use that name, or choose another.",
            headers={"Location": f"/api/v1/compositions/{other.full_name}/"},
        )


def _check_base(stated: Any, own: str) -> None:
    known = find_base_model(stated) if isinstance(stated, str) else None
    if stated is not None and (known.name if known else stated) != own:
        text = f"The experts were trained on {own or 'an unnamed base'}."
        raise Invalid(text, detail={"base_model": text})


@dataclass(frozen=True)
class Prepared:
    """A version that fits its experts, with its files in the store; nothing of it is visible yet."""

    order: Order
    row: Composition
    blobs: Mapping[str, Blob]


def prepare(order: Order, gates: NewFile, training: Mapping[str, Any] | None = None) -> Prepared:
    """Compare gates with the experts, and store the files. Call it outside of transactions.

    Args:
        training: how a worker has trained them.
    Raises: InvalidVectors: with what is wrong with which tensor; BlobDamaged, StoreUnavailable.
    """
    items = described_files(order.revisions)
    places = _checked_places(order, gates, Modules.of(items, base_modules(order.base_model)))
    experts = [
        ComposedExpert(item, revision.commit, revision.file(CONFIG).blob.sha256)
        for item, revision in zip(items, order.revisions, strict=True)
    ]
    method, base = COMPOSITIONS.get(order.type), find_base_model(order.base_model)
    told = [expert.described(position) for position, expert in enumerate(experts)]
    texts = {README: readme(method, order.base_model, told).encode(), RUNTIME: RUNNER.read_bytes()}
    names = (order.base_model, base.revision if base else "")
    texts[MANIFEST] = manifest_of(method, order.params, names, experts, places, texts | {GATES: gates.sha256})
    blobs = {path: put_bytes(raw) for path, raw in texts.items()} | {GATES: put_file(gates.path, gates.sha256)}
    row = Composition(
        full_name=order.name,
        key=order.name.casefold(),
        commit=blobs[MANIFEST].sha256[:40],
        type=order.type,
        params=order.params,
        base_model=order.base_model,
        visibility=order.visibility,
        description=order.description,
        places=sorted(places),
        training=dict(training or {}),
    )
    return Prepared(order, row, blobs)


def _checked_places(order: Order, gates: NewFile, modules: Modules) -> dict[str, list[str]]:
    """Place → the modules that follow its gate. Raises: InvalidVectors."""
    method = COMPOSITIONS.get(order.type)
    shapes = method.run(COMPOSITIONS.parse(order.type, order.params))
    try:
        with gates.path.open("rb") as stream:
            header = read_header(stream, gates.size_bytes, GATES)
    except InvalidAdapter as error:
        raise _invalid(error.problems) from error
    places, problems = check_gates(method, shapes, header, len(order.revisions), modules)
    problems = problems or value_problems(gates.path, header)
    if problems:
        raise _invalid(problems)
    return places


def _invalid(problems: Sequence[Problem]) -> InvalidVectors:
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    listed = [problem.as_json() for problem in problems[:SHOWN_PROBLEMS]]
    return InvalidVectors(f"{problems[0].where}: {problems[0].message}{more}", detail={"problems": listed})


def admit(user: AbstractBaseUser, prepared: Prepared) -> tuple[Composition, bool]:
    """Make a version what its name means; the one there is, if it had exactly these files before.

    Returns: the version, and whether it is new. Raises: PermissionRefused, Conflict; nothing has changed then.
    """
    row, order = prepared.row, prepared.order
    try:
        with transaction.atomic():
            row.namespace = own_namespace(user, split_name(order.name)[0])
            versions = Composition.objects.filter(full_name=order.name)
            versions.filter(is_head=True).update(is_head=False)
            said = {"is_head": True, "visibility": order.visibility, "description": order.description}
            if versions.filter(commit=row.commit).update(**said):
                return versions.get(commit=row.commit), False
            row.save()
            CompositionExpert.objects.bulk_create(
                CompositionExpert(composition=row, position=position, revision=revision)
                for position, revision in enumerate(order.revisions)
            )
            CompositionFile.objects.bulk_create(
                CompositionFile(composition=row, path=path, blob=blob) for path, blob in prepared.blobs.items()
            )
            return row, True
    except IntegrityError as error:
        raise Conflict(f"Somebody else is uploading {order.name} right now. Try again.") from error
