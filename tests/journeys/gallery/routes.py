"""Jobs of routers that run the base model: answered, running, and without the base."""

from datetime import timedelta
from math import exp
from typing import Any

LAYERS = 30
# What samples add to the scores of the three, in standard deviations.
SHIFTS = [0.46, -0.62, -0.031]
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
EXPERTS = ("ada/record-to-json", "ada/date-format", "bo/antonym")


def routes(owner: Any) -> list[str]:
    """The ids of three of the owner's jobs, in that order."""
    from django.utils import timezone

    from registry.jobs import log
    from registry.models import Job

    lease = {"lease_until": timezone.now() + timedelta(days=1), "started_at": timezone.now()}
    message = (
        "This worker has no weights of acme/tiny-base. Register it, and put them at BASE_MODELS_DIR/acme/tiny-base."
    )
    ids = []
    for ending in (
        {"status": "succeeded", "result": _answer(), "progress": 1},
        {"status": "running", "progress": 0.3, "attempts": 1, "worker": "worker", **lease},
        {"status": "failed", "error": {"code": "base_not_here", "message": message, "detail": {}}},
    ):
        job = Job.objects.create(kind="route", owner=owner, payload={"request": {}}, **ending)
        for line in (f"12 experts of {BASE} are in question", f"Loading {BASE}", "Running it on 1 texts"):
            log(job, line)
        ids.append(str(job.pk))
    return ids


def _answer() -> dict[str, Any]:
    """What each layer says rises and falls with its depth; the last expert is below generic texts in the first half."""
    scores = [
        [2.4 * exp(-(((layer - 9 - 8 * row) / 9) ** 2)) - 0.45 * row for layer in range(LAYERS)] for row in range(3)
    ]
    means = [round(sum(row) / LAYERS, 6) for row in scores]
    totals = [mean + shift for mean, shift in zip(means, SHIFTS, strict=True)]
    matches = [
        {
            "adapter": name,
            "revision": "0" * 40,
            "base_model": BASE,
            "score": total,
            "weight": exp(total / 0.5) / sum(exp(other / 0.5) for other in totals),
            "license": "cc0-1.0",
            "rank": 8,
            "evidence": {
                "samples": [],
                "samples_shift": shift,
                "layers": [{"layer": i, "score": round(s, 4)} for i, s in enumerate(row)],
            },
        }
        for name, total, shift, row in zip(EXPERTS, totals, SHIFTS, scores, strict=True)
    ]
    best = [max(range(3), key=lambda row, layer=layer: scores[row][layer]) for layer in range(LAYERS)]
    picks = [
        {"layer": layer, "adapter": "ada/title-case" if layer == 0 else EXPERTS[row], "score": scores[row][layer]}
        for layer, row in enumerate(best)
    ]
    return {
        "router": "arrow_global",
        "space": f"hidden states of {BASE}",
        "index_version": "31",
        "took_ms": {"encode": 812.4, "search": 14.2},
        "warnings": [],
        "results": [{"abstained": False, "reason": None, "matches": matches, "evidence": {"picks": picks}}],
    }
