"""What a merge form offers where another method is known to keep more of the inputs."""

from dataclasses import asdict

from lora.merges import MERGES
from lora.recipe_tree import Step
from registry.base_weights import can_run
from registry.errors import NotMergeable
from registry.merges import InputFile, check_inputs, first_places
from registry.recipe_requests import Reading

# Of all methods, what keeps the most of every expert by far: docs/benchmarks.md, "What merges answer".
KEEPS_MOST = "regmean"
MESSAGE = (
    "Every input has samples, and the base model is here: RegMean would run it on them and keep far more of each, in "
    "minutes instead of seconds."
)


def suggest(reading: Reading, files: list[InputFile]) -> dict[str, str] | None:
    """`{method, title, message}` where KEEPS_MOST could do the merge and a method without data is chosen, else None.

    Not for recipes of recipes, nor where an input is taken away: what such a recipe is to keep is not each input.

    Args:
        files: of the adapters of a reading without flaws, each once, in the order of its places.
    """
    draft = reading.draft
    if reading.flaws or draft is None or not draft.step.is_flat or len(draft.sources) < 2:
        return None
    if MERGES.get(draft.method).traits["family"] == "data" or min(draft.applied or [0.0]) <= 0:
        return None
    places = first_places(reading.places)
    instead = Step(KEEPS_MOST, asdict(MERGES.get(KEEPS_MOST).params()), draft.step.inputs)
    try:
        check_inputs(places, files, instead)
    except NotMergeable:
        return None
    if not can_run(next(iter(places.values())).base_model):
        return None
    return {"method": KEEPS_MOST, "title": MERGES.get(KEEPS_MOST).title, "message": MESSAGE}
