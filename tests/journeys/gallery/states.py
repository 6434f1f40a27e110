"""Every page in every state that a person can meet, and how to get it there."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from playwright.sync_api import Page

from tests.journeys.gallery import acts

PROMPT = quote("Turn the record into JSON with the keys name, age and city.\nInes, aged 24, lives in Delhi")
EXAMPLES = "param.examples=" + quote('[{"input": "Name the capital of Peru."}]')
ROUTED = f"text={PROMPT}&router=arrow_global&base_model=HuggingFaceTB/SmolLM2-135M-Instruct"
INPUTS = "input=ada/record-to-json:0.7&input=ada/date-format:0.3"
COMPOSED = "input=ada/date-format&input=bo/antonym"
REFUSED = ("the server responded with a status of",)


@dataclass(frozen=True)
class State:
    """`site` is a fixture of conftest.py; `path` may name marks of that site; `prepare` acts as a person would."""

    page: str
    name: str
    site: str
    path: str
    user: str | None = None
    prepare: Callable[[Page], None] = acts.as_it_comes
    expected: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}-{self.name}"


STATES = [
    State("home", "empty", "empty", "/"),
    State("home", "filled", "filled", "/", "ada"),
    State("home", "menu", "filled", "/", "ada", acts.menu_open),
    State("home", "crowded", "crowded", "/"),
    State("list", "empty", "empty", "/adapters/"),
    State("list", "filled", "filled", "/adapters/", "ada"),
    State("list", "filtered", "filled", "/adapters/?search=json&tag=example"),
    State("list", "no-match", "filled", "/adapters/?search=nothing+like+this"),
    State("list", "crowded", "crowded", "/adapters/"),
    State(
        "list",
        "crowded-filtered",
        "crowded",
        "/adapters/?license=mit&license=apache-2.0&rank=16&page=3",
    ),
    State("adapter", "ready", "filled", "/adapters/ada/date-format/"),
    State("adapter", "owner", "filled", "/adapters/ada/roman-numerals/", "ada"),
    State("adapter", "old-revision", "filled", "/adapters/ada/roman-numerals/?revision={old_revision}", "ada"),
    State("adapter", "private", "filled", "/adapters/ada/review-sentiment/", "ada"),
    State("adapter", "merged", "filled", "/adapters/ada/json-dates/", "ada"),
    State("adapter", "unknown-base", "filled", "/adapters/bo/stranger/"),
    State("adapter", "checking", "filled", "/adapters/ada/waiting/", "ada"),
    State("adapter", "rejected", "filled", "/adapters/ada/spoilt/", "ada"),
    State("adapter", "yanked", "filled", "/adapters/ada/retired/", "ada"),
    State("adapter", "crowded", "crowded", "/adapters/{expert}/"),
    State("compare", "two", "filled", "/adapters/compare/?input=ada/date-format&input=bo/stranger", "ada"),
    State("compare", "nothing", "filled", "/adapters/compare/"),
    State("import", "empty", "empty", "/import/", "operator"),
    State("import", "filled", "filled", "/import/", "operator"),
    State("import", "error", "filled", "/import/", "operator", acts.relative_directory),
    State("upload", "empty", "empty", "/upload/", "ada"),
    State("upload", "chosen", "filled", "/upload/", "ada", acts.chosen),
    State("upload", "new-revision", "filled", "/upload/?name=ada/date-format", "ada"),
    State("upload", "refused", "filled", "/upload/", "ada", acts.refused, REFUSED),
    State("upload", "uploading", "filled", "/upload/", "ada", acts.uploading),
    State("retrieve", "empty", "filled", "/retrieve/"),
    State("retrieve", "answered", "filled", f"/retrieve/?text={PROMPT}&router=lora_retriever", "ada", acts.ticked),
    State("retrieve", "abstained", "empty", f"/retrieve/?text={PROMPT}&router=lora_retriever", None, acts.abstained),
    State("retrieve", "error", "filled", "/retrieve/", None, acts.asked_for_nothing, REFUSED),
    State("retrieve", "job", "filled", f"/retrieve/?{ROUTED}&job={{route}}", "ada", acts.route_ended),
    State("retrieve", "job-running", "filled", f"/retrieve/?{ROUTED}&job={{running_route}}", "ada", acts.route_running),
    State("retrieve", "job-failed", "filled", f"/retrieve/?{ROUTED}&job={{failed_route}}", "ada", acts.told),
    State("retrieve", "job-anonymous", "filled", f"/retrieve/?{ROUTED}", None, acts.told),
    State("merge", "empty", "filled", "/merge/", "ada", acts.merge_judged),
    State("merge", "anonymous", "filled", "/merge/", None, acts.merge_judged),
    State("merge", "inputs", "filled", f"/merge/?{INPUTS}", "ada", acts.merge_judged),
    State("merge", "checking", "filled", f"/merge/?{INPUTS}", "ada", acts.merge_checking),
    State("merge", "lost", "filled", f"/merge/?{INPUTS}", "ada", acts.merge_lost, ("net::ERR_FAILED",)),
    State(
        "merge", "no-base", "filled", f"/merge/?input=bo/stranger&method=packllm&{EXAMPLES}", "ada", acts.merge_judged
    ),
    State("merge", "no-samples", "filled", "/merge/?input=bo/stranger&method=lorahub", "ada", acts.merge_refused),
    State("merge", "refused", "filled", "/merge/?input=ada/date-format&input=bo/stranger", "ada", acts.merge_refused),
    State("merge-result", "finished", "filled", "/merges/{merge}/", "ada"),
    State("merge-result", "running", "filled", "/merges/{running_merge}/", "ada"),
    State("bundle", "nothing", "empty", "/bundle/", None, acts.bundle_shown),
    State(
        "bundle",
        "lacking",
        "filled",
        "/bundle/?router=phatgoose&input=ada/json-dates&input=ada/date-format",
        "ada",
        acts.bundle_lacking,
        REFUSED,
    ),
    State("bundle", "ended", "filled", "/bundle/?job={bundle_job}", "ada", acts.bundle_ended),
    State("job", "bundle", "filled", "/jobs/{bundle_job}/", "ada"),
    State("compositions", "empty", "empty", "/compositions/"),
    State("compositions", "filled", "filled", "/compositions/", "ada"),
    State("compositions", "no-match", "filled", "/compositions/?owner=nobody"),
    State("compositions", "error", "filled", "/compositions/?type=none", None, acts.as_it_comes, REFUSED),
    State("compositions", "crowded", "crowded", "/compositions/?page=2"),
    State("composition", "trained", "filled", "/compositions/ada/dates-and-antonyms/", "ada"),
    State("composition", "taken-back", "filled", "/compositions/ada/deferring/", "ada"),
    State("compose", "nothing", "empty", "/compositions/new/", None, acts.compose_shown),
    State("compose", "experts", "filled", f"/compositions/new/?{COMPOSED}", "ada", acts.compose_shown),
    State("compose", "upload", "filled", f"/compositions/new/?{COMPOSED}", "ada", acts.compose_upload),
    State(
        "compose",
        "refused",
        "filled",
        f"/compositions/new/?{COMPOSED}&input=bo/stranger&name=ada/three",
        "ada",
        acts.compose_refused,
        REFUSED,
    ),
    State("job", "compose", "filled", "/jobs/{compose_job}/", "ada"),
    State("trial", "nothing", "empty", "/trial/"),
    State("trial", "anonymous", "filled", "/trial/"),
    State("trial", "written", "filled", "/trial/", "ada", acts.trial_written),
    State("trial", "refused", "filled", "/trial/", "ada", acts.trial_refused),
    State("trial", "running", "filled", "/trial/?job={running_trial}", "ada", acts.trial_running),
    State("trial", "ended", "filled", "/trial/?job={trial}", "ada", acts.trial_ended),
    State("trial", "failed", "filled", "/trial/?job={failed_trial}", "ada", acts.trial_failed),
    State("job", "trial", "filled", "/jobs/{trial}/", "ada"),
    State("jobs", "empty", "empty", "/jobs/", "ada"),
    State("jobs", "filled", "filled", "/jobs/", "ada"),
    State("jobs", "crowded", "crowded", "/jobs/", "ada"),
    State("job", "queued", "filled", "/jobs/{queued_job}/", "ada"),
    State("job", "running", "filled", "/jobs/{running_job}/", "ada"),
    State("job", "succeeded", "filled", "/jobs/{merged_job}/", "ada"),
    State("job", "failed", "filled", "/jobs/{failed_job}/", "ada"),
    State("job", "cancelled", "filled", "/jobs/{cancelled_job}/", "ada"),
    State("job", "looked", "filled", "/jobs/{looked_job}/", "operator"),
    State("job", "import", "filled", "/jobs/{import_job}/", "operator"),
    State("leaderboard", "empty", "empty", "/leaderboard/"),
    State("leaderboard", "filled", "crowded", "/leaderboard/", None, acts.tasks_shown),
    State("methods", "all", "empty", "/methods/"),
    State("methods", "picked", "crowded", "/methods/?have=samples&pick=1"),
    State("methods", "nothing", "empty", "/methods/?have=outcomes&pick=1"),
    State("login", "empty", "filled", "/login/?next=/upload/"),
    State("login", "error", "filled", "/login/", None, acts.wrong_password),
    State("signup", "empty", "filled", "/signup/"),
    State("signup", "error", "filled", "/signup/", None, acts.submitted("Create the account")),
    State("signup", "closed", "crowded", "/signup/", None, acts.as_it_comes, REFUSED),
    State("tokens", "filled", "filled", "/settings/tokens/", "ada"),
    State("tokens", "error", "filled", "/settings/tokens/", "ada", acts.submitted("Create")),
    State("tokens", "empty", "empty", "/settings/tokens/", "newcomer"),
    State("tokens", "made", "empty", "/settings/tokens/", "ada", acts.token_made),
    State("error", "400", "filled", "/adapters/?" + "a&" * 1001, None, acts.as_it_comes, REFUSED),
    State("error", "403", "filled", "/import/", "ada", acts.as_it_comes, REFUSED),
    State("error", "403-form", "filled", "/login/", None, acts.expired_form, REFUSED),
    State("error", "404", "filled", "/adapters/ada/nothing/", None, acts.as_it_comes, REFUSED),
    State("error", "500", "crowded", "/settings/tokens/", "ada", acts.as_it_comes, REFUSED),
]
