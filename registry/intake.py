"""What arrives with an upload, and everything that can be decided about it before a tensor is read."""

from dataclasses import dataclass, field
from pathlib import Path

from lora.check import NO_SAMPLES, TEMPLATE_CARD, Verdict, check_files
from lora.config import CONFIG_NAME, parse_config
from lora.errors import InvalidAdapter, Problem
from lora.header import WEIGHTS_NAME, read_header
from registry import cards, samples
from registry.errors import Invalid
from registry.gates import check_gates
from registry.names import check_tags
from registry.queries import find_base_model

CONFIG = CONFIG_NAME
WEIGHTS = WEIGHTS_NAME
GATES = "gates.safetensors"
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
    _check_digest(files[WEIGHTS], said.sha256)
    config = parse_config(_read_small(files[CONFIG], CONFIG, MAX_CONFIG_BYTES))
    with files[WEIGHTS].path.open("rb") as stream:
        header = read_header(stream, files[WEIGHTS].size_bytes)
    card = cards.Card()
    if cards.PATH in files:
        card = cards.parse_card(_read_small(files[cards.PATH], cards.PATH, cards.MAX_BYTES))
    base_name = said.base_model or config.base_model or card.base_model
    base = find_base_model(base_name)
    modules = {path: (shape[0], shape[1]) for path, shape in base.modules.items()} if base else None
    verdict = check_files(config, header, files[WEIGHTS].size_bytes, modules)
    warnings = list(verdict.warnings)
    if samples.PATH in files:
        samples.parse_samples(_read_small(files[samples.PATH], samples.PATH, samples.MAX_BYTES))
    else:
        warnings.append(NO_SAMPLES)
    if card.is_template:
        warnings.append(TEMPLATE_CARD)
    if GATES in files:
        check_gates(files[GATES].path, verdict.layout)
    return Checked(verdict, card, base.name if base else base_name or "", warnings)


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
