"""What arrives with an upload, and everything that can be decided about it before a tensor is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lora.check import NO_SAMPLES, TEMPLATE_CARD, Verdict, check_files, read_pair
from lora.config import CONFIG_NAME, LoraConfig
from lora.errors import InvalidAdapter, Problem
from lora.header import WEIGHTS_NAME
from registry import cards, samples
from registry.errors import AppError, Invalid
from registry.gates import GATES, check_gates
from registry.names import check_tags
from registry.queries import find_base_model
from registry.samples import Sample

CONFIG = CONFIG_NAME
WEIGHTS = WEIGHTS_NAME
FILES = (CONFIG, WEIGHTS, cards.PATH, samples.PATH, GATES)
MAX_CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True)
class NewFile:
    """A file on local disk that may become part of a revision; storing it moves it away."""

    path: Path
    sha256: str

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class FileHead(NewFile):
    """The beginning of a file, enough to judge it; never stored. `whole_bytes`: the size of all of it."""

    whole_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.whole_bytes


@dataclass(frozen=True)
class Described:
    """What a contributor says beside the files. None: keep what config, card or the last revision say."""

    visibility: str | None = None
    base_model: str | None = None
    description: str | None = None
    license: str | None = None
    tags: list[str] | None = None
    samples_public: bool | None = None
    sha256: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Checked:
    """The outcome of everything that can be decided without reading tensors."""

    verdict: Verdict
    card: cards.Card
    base_model: str
    warnings: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Judged:
    """As `Checked`, as far as one gets: `refusals` in the order in which an upload would meet them."""

    refusals: list[AppError | InvalidAdapter] = field(default_factory=list)
    config: LoraConfig | None = None
    verdict: Verdict | None = None
    card: cards.Card = field(default_factory=cards.Card)
    base_model: str = ""
    samples: list[Sample] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep a refusal by the block, and go on behind it."""
        try:
            yield
        except (AppError, InvalidAdapter) as error:
            self.refusals.append(error)


def check_described(said: Described) -> None:
    if said.visibility not in (None, "public", "private"):
        raise Invalid("visibility is 'public' or 'private'.", detail={"visibility": "unknown value"})
    for name, value, limit in (
        ("description", said.description, 5000),
        ("license", said.license, 100),
        ("base_model", said.base_model, 500),
    ):
        if value is not None and (len(value) > limit or "\0" in value):
            raise Invalid(f"{name} has at most {limit} characters, none of them NUL.", detail={name: "too long"})
    if said.tags is not None:
        check_tags(said.tags)


def check_upload(files: dict[str, NewFile], said: Described) -> Checked:
    """Everything that names, header, config, sizes, digest and syntax decide. Raises: InvalidAdapter and others."""
    judged = Judged()
    judge_files(judged, files, said)
    if judged.refusals:
        raise judged.refusals[0]
    assert judged.verdict is not None  # noqa: S101 - only a refusal keeps it away
    return Checked(judged.verdict, judged.card, judged.base_model, judged.warnings)


def judge_files(judged: Judged, files: dict[str, NewFile], said: Described) -> None:
    """Judge config and weights, which must be there, and what comes with them. Reads no tensor, raises no refusal."""
    with judged.noting():
        _check_digest(files[WEIGHTS], said.sha256)
    with judged.noting():
        if cards.PATH in files:
            judged.card = cards.parse_card(_read_small(files[cards.PATH], cards.PATH, cards.MAX_BYTES))
    with judged.noting():
        _judge_pair(judged, files, said)
    with judged.noting():
        if samples.PATH in files:
            raw = _read_small(files[samples.PATH], samples.PATH, samples.MAX_BYTES)
            judged.samples = samples.parse_samples(raw)
        else:
            judged.warnings.append(NO_SAMPLES)
    if judged.card.is_template:
        judged.warnings.append(TEMPLATE_CARD)


def _judge_pair(judged: Judged, files: dict[str, NewFile], said: Described) -> None:
    """Fill in base, verdict and warnings. Raises: InvalidAdapter."""
    weights = files[WEIGHTS]
    with weights.path.open("rb") as stream:
        config, header = read_pair(_read_small(files[CONFIG], CONFIG, MAX_CONFIG_BYTES), stream, weights.size_bytes)
    judged.config = config
    judged.base_model = said.base_model or config.base_model or judged.card.base_model
    base = find_base_model(judged.base_model)
    if base:
        judged.base_model = base.name
    modules = {path: (shape[0], shape[1]) for path, shape in base.modules.items()} if base else None
    judged.verdict = check_files(config, header, weights.size_bytes, modules)
    judged.warnings += judged.verdict.warnings
    if GATES in files:
        check_gates(files[GATES].path, files[GATES].size_bytes, judged.verdict.layout)


def _read_small(file: NewFile, name: str, limit_bytes: int) -> bytes:
    if file.size_bytes > limit_bytes:
        raise InvalidAdapter([Problem("too_large", name, f"{name} is larger than {limit_bytes} bytes.")])
    return file.path.read_bytes()


def _check_digest(weights: NewFile, stated: str | None) -> None:
    if stated is not None and stated.lower() != weights.sha256:
        raise InvalidAdapter(
            [
                Problem(
                    "digest_mismatch",
                    WEIGHTS,
                    f"The bytes that arrived hash to {weights.sha256}, not to the sha256 given. Send the file again.",
                )
            ]
        )
