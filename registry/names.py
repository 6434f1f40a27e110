"""Which names are allowed: `owner/name`, refs, tags."""

import re

from registry.errors import Invalid

HALF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# First URL segments of ours and of the Hub: an owner of that name would shadow pages or confuse clients.
RESERVED_OWNERS = frozenset(
    "about accounts adapters admin api archive auth base-models blog bundle bundles chat collections compositions "
    "dashboard datasets docs enterprise favicon.ico healthz help home jobs join leaderboard login logout main me media "
    "merge merges methods metrics models new notifications null oauth organizations papers posts pricing privacy "
    "readyz resolve retrieve robots.txt root schema search searches security settings signup spaces static status "
    "support system tasks terms tokens trial trials undefined upload user users v1 welcome whoami".split()
)
MAX_TAGS = 50


def check_half(value: str, what: str) -> str:
    """`value` if it may be one half of `owner/name`. Raises: Invalid."""
    bad = ".." in value or "--" in value or value.endswith((".", "-")) or value.lower().endswith(".git")
    if not HALF.fullmatch(value) or bad:
        raise Invalid(
            f"{value[:100]!r} is not a valid {what}: use 1 to 96 letters, digits, '.', '_' or '-', starting with a "
            "letter or digit, without '..' or '--', not ending in '.', '-' or '.git'.",
            detail={"name": f"invalid {what}"},
        )
    return value


def check_owner(value: str) -> str:
    """`value` if it may be a namespace. Raises: Invalid."""
    check_half(value, "owner")
    if value.lower() in RESERVED_OWNERS:
        raise Invalid(f"The owner name {value!r} is reserved. Choose another.", detail={"name": "reserved"})
    return value


def split_name(full_name: str) -> tuple[str, str]:
    """(owner, name) of `owner/name`. Raises: Invalid."""
    owner, slash, name = full_name.partition("/")
    if not full_name:
        raise Invalid("The name is missing: owner/name.", detail={"name": "missing"})
    if not slash:
        raise Invalid("A name has two halves: owner/name.", detail={"name": "owner/name expected"})
    return check_owner(owner), check_half(name, "adapter name")


def namespace_key(name: str) -> str:
    """Folded so that names which people confuse (`ada_l`, `Ada-L`) are one namespace."""
    return re.sub(r"[-_.]+", "-", name.casefold())


def check_tags(tags: list[str]) -> list[str]:
    """Tags without blanks and repetitions, in the order given. Raises: Invalid."""
    cleaned = list(dict.fromkeys(tag.strip() for tag in tags))
    for tag in cleaned:
        if not tag or len(tag) > 80 or not tag.isprintable() or '"' in tag:
            raise Invalid(
                f"{tag[:80]!r} is not a valid tag: 1 to 80 printable characters without quotes.",
                detail={"tags": "invalid tag"},
            )
    if len(cleaned) > MAX_TAGS:
        raise Invalid(f"{len(cleaned)} tags; at most {MAX_TAGS}.", detail={"tags": "too many"})
    return cleaned
