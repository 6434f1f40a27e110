"""What a revision changed against the one before it."""

from typing import Any

from django.template.defaultfilters import filesizeformat

from registry.models import Revision
from registry.samples import PATH as SAMPLES

FACTS = (
    ("rank", "Rank"),
    ("alpha", "Alpha"),
    ("scaling", "Scaling"),
    ("dtype", "Data type"),
    ("parameters", "Parameters"),
    ("modules_bound", "Modules with tensors"),
    ("modules_in_base", "Modules targeted in the base"),
)


def changes(before: Revision, now: Revision, hides_samples: bool) -> dict[str, Any]:
    """Files and facts that differ.

    Returns: `{files: [{path, change}], facts: [{name, before, now}], same_weights, warnings: {new, gone}}`.
    """
    facts = [
        {"name": title, "before": before.summary.get(key), "now": now.summary.get(key)}
        for key, title in FACTS
        if before.summary.get(key) != now.summary.get(key)
    ]
    if before.base_model != now.base_model:
        facts.insert(0, {"name": "Base model", "before": before.base_model, "now": now.base_model})
    if before.norm is not None and now.norm is not None and f"{before.norm:.4g}" != f"{now.norm:.4g}":
        facts.append({"name": "‖ΔW‖, all modules", "before": f"{before.norm:.4g}", "now": f"{now.norm:.4g}"})
    codes = [{warning["code"] for warning in revision.warnings} for revision in (before, now)]
    digests = [revision.summary.get("tensor_digest") for revision in (before, now)]
    return {
        "files": _file_changes(before, now, {SAMPLES} if hides_samples else set()),
        "facts": facts,
        "same_weights": digests[0] is not None and digests[0] == digests[1],
        "warnings": {"new": sorted(codes[1] - codes[0]), "gone": sorted(codes[0] - codes[1])},
    }


def _file_changes(before: Revision, now: Revision, hidden: set[str]) -> list[dict[str, str]]:
    old = {file.path: file.blob for file in before.files.all()}
    new = {file.path: file.blob for file in now.files.all()}
    found = []
    for path in sorted((old.keys() | new.keys()) - hidden):
        if path not in old:
            change = f"added, {filesizeformat(new[path].size_bytes)}"
        elif path not in new:
            change = "removed"
        elif old[path].sha256 != new[path].sha256:
            change = f"changed, {filesizeformat(old[path].size_bytes)} → {filesizeformat(new[path].size_bytes)}"
        else:
            continue
        found.append({"path": path, "change": change})
    return found
