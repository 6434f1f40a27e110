"""The pages as a browser without scripts gets them: what they show, to whom, and what they refuse."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.template.loader import render_to_string
from django.test import Client

from registry.accounts import create_user
from registry.adapters import publish
from registry.models import Adapter, Job, JobLog, Merge, MergeArtefact, MergeInput, Namespace, Revision
from registry.storage import put_bytes
from registry.views.card import render_card
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough passphrase"
SAMPLES = b'{"input": "Capital of Peru?", "output": "Lima"}\n{"input": "Capital of Chad?"}\n'
Upload = Callable[..., Revision]


@pytest.fixture
def ada() -> User:
    return create_user("ada", PASSWORD)


@pytest.fixture
def browser(ada: User) -> Client:
    client = Client()
    client.force_login(ada)
    return client


@pytest.fixture
def upload(ada: User, tmp_path: Path) -> Upload:
    """Uploads a real adapter through the API, and admits it as its job would."""

    def do(name: str = "ada/capitals", *, ready: bool = True, seed: int = 0, **fields: Any) -> Revision:
        write_adapter_files(tmp_path, seed=seed)
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()} | {"samples.jsonl": SAMPLES}
        parts = {file: SimpleUploadedFile(file, content) for file, content in files.items()}
        client = Client()
        client.force_login(User.objects.get(username=name.split("/")[0]))
        answer = client.post("/api/v1/adapters/", {"name": name, **parts, **fields})
        assert answer.status_code == 202, answer.content
        revision = Revision.objects.get(commit=answer.json()["adapter"]["revision"])
        if ready:
            publish(revision, with_values(revision.facts), 1.5, revision.warnings)
        return revision

    return do


def with_values(facts: dict[str, Any]) -> dict[str, Any]:
    values = {"norm": 0.75, "sigma": [0.6, 0.4, 0.2, 0.1], "stable_rank": 1.6}
    return facts | {"modules": [module | values for module in facts["modules"]]}


@pytest.fixture
def merge(ada: User, upload: Upload) -> Merge:
    parents = [upload("ada/one", seed=1), upload("ada/two", seed=2)]
    child = upload("ada/both", seed=3)
    module = {"path": "model.layers.0.q", "rank": 4, "energy_kept": 0.9, "relative_error": 0.3, "norm_in": [1, 2]}
    report = {"energy_kept": 0.913, "relative_error": 0.295, "warnings": [], "per_module": [module | {"norm_out": 1.5}]}
    artefact = MergeArtefact.objects.create(
        recipe_hash="c" * 64, weights=put_bytes(b"w"), config=put_bytes(b"c"), report=report
    )
    merge = Merge.objects.create(
        owner=ada,
        method="ties",
        params={"density": 0.2},
        output={"name": "ada/both", "visibility": "public", "rank": {"mode": "max_input"}, "dtype": None},
        recipe_hash="c" * 64,
        request_hash="d" * 64,
        artefact=artefact,
        revision=child,
    )
    for position, parent in enumerate(parents):
        MergeInput.objects.create(merge=merge, position=position, revision=parent, weight=0.5)
    Job.objects.create(kind="merge", owner=ada, merge=merge, status="succeeded", progress=1, result={"merge": "x"})
    return merge


class Page(HTMLParser):
    """Collects what our rules for HTML are about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self.depth_in_label = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.inline += [f"{tag} {name}" for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found and found.get("type") != "application/json"):
            self.inline.append(f"inline <{tag}>")
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag == "label":
            self.depth_in_label += 1
            self.labelled.add(found.get("for") or "")
        if tag in ("input", "select", "textarea") and found.get("type") != "hidden":
            named = self.depth_in_label or found.get("aria-label") or found.get("data-part")
            if not named:
                self.fields.append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.depth_in_label -= 1

    @property
    def unlabelled(self) -> list[dict[str, str | None]]:
        return [field for field in self.fields if field.get("id") not in self.labelled]


def check_html(html: str) -> None:
    # Rows of the merge form get their ids, and so their labels, when a script adds them.
    page = Page(html.split('<template id="input-template">')[0])
    assert page.inline == []
    assert page.unlabelled == []
    assert len(page.ids) == len(set(page.ids))


PUBLIC = ["/", "/adapters/", "/adapters/ada/capitals/", "/retrieve/", "/merge/", "/login/", "/signup/"]
PRIVATE = ["/upload/", "/jobs/", "/settings/tokens/"]


@pytest.mark.parametrize("path", PUBLIC)
def test_public_pages_need_no_account(client: Client, upload: Upload, path: str) -> None:
    upload()
    answer = client.get(path)
    assert answer.status_code == 200
    check_html(answer.content.decode())
    assert "script-src 'self'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize("path", PRIVATE)
def test_pages_of_an_account_lead_to_the_login(client: Client, browser: Client, path: str) -> None:
    assert client.get(path).headers["Location"] == f"/login/?next={path}"
    check_html(browser.get(path).content.decode())


def test_an_empty_registry_says_how_to_start(client: Client) -> None:
    assert "The registry is empty" in client.get("/").content.decode()
    assert "No experts yet" in client.get("/adapters/").content.decode()


def test_the_page_of_an_adapter_shows_what_one_decides_by(browser: Client, upload: Upload) -> None:
    revision = upload(description="Knows capitals", tags=["geo"], license="mit")
    answer = browser.get("/adapters/ada/capitals/")
    html = answer.content.decode()
    check_html(html)
    for text in ("Knows capitals", "geo", "mit", "Capital of Peru?", "Lima", revision.commit, "PeftModel", "Yank"):
        assert text in html
    assert answer.context["binding"] is None
    assert "Binding not checked" in html
    assert answer.context["heatmap"]["columns"] == ["0", "1"]
    assert f"/api/v1/adapters/ada/capitals/files/adapter_config.json?revision={revision.commit}" in html


def test_only_the_owner_gets_the_controls(client: Client, upload: Upload) -> None:
    upload()
    assert "yank-form" not in client.get("/adapters/ada/capitals/").content.decode()


def test_private_and_unchecked_adapters_are_404_to_others(client: Client, browser: Client, upload: Upload) -> None:
    upload("ada/secret", visibility="private")
    upload("ada/new", seed=1, ready=False)
    for name in ("secret", "new", "never-was"):
        assert client.get(f"/adapters/ada/{name}/").status_code == 404
    assert "private" in browser.get("/adapters/ada/secret/").content.decode()
    assert "Being checked" in browser.get("/adapters/ada/new/").content.decode()
    listed = client.get("/adapters/").content.decode()
    assert "ada/secret" not in listed
    assert "ada/new" not in listed


def test_a_rejected_adapter_says_why_to_its_owner(browser: Client, upload: Upload) -> None:
    revision = upload(ready=False)
    revision.state = Revision.State.REJECTED
    revision.problems = [{"code": "not_finite", "where": "layer.3", "message": "It holds <NaN>."}]
    revision.save()
    html = browser.get("/adapters/ada/capitals/").content.decode()
    assert "It holds &lt;NaN&gt;." in html
    assert "not_finite" in html
    assert "PeftModel" not in html


def test_hidden_samples_are_shown_to_the_owner_only(client: Client, browser: Client, upload: Upload) -> None:
    upload()
    Adapter.objects.update(samples_public=False)
    assert "Capital of Peru?" in browser.get("/adapters/ada/capitals/").content.decode()
    html = client.get("/adapters/ada/capitals/").content.decode()
    assert "Capital of Peru?" not in html
    assert "does not show the sample texts" in html


def test_the_list_filters_and_htmx_gets_the_rows_alone(client: Client, upload: Upload) -> None:
    upload("ada/one", seed=1, tags=["geo"])
    upload("ada/two", seed=2, tags=["maths"])
    answer = client.get("/adapters/", {"tag": "geo", "search": "", "owner": "ada"}, headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert [row["adapter"].full_name for row in answer.context["rows"]] == ["ada/one"]
    assert html.lstrip().startswith('<section id="results"')
    assert "No expert fits" in client.get("/adapters/?search=nothing-like-it").content.decode()


def test_the_list_stays_cheap_with_many_rows(client: Client, ada: User, upload: Upload, django_assert_max_num_queries):
    head = upload()
    namespace = Namespace.objects.get(owner=ada)
    names = [f"expert-{number:03}" for number in range(60)]
    Adapter.objects.bulk_create(
        Adapter(namespace=namespace, name=name, full_name=f"ada/{name}", key=f"ada/{name}") for name in names
    )
    revisions = Revision.objects.bulk_create(
        Revision(adapter=adapter, commit=f"{adapter.pk:040x}", state="ready", facts=head.facts)
        for adapter in Adapter.objects.filter(head=None)
    )
    for revision in revisions:
        Adapter.objects.filter(pk=revision.adapter_id).update(head=revision)
    with django_assert_max_num_queries(8):
        answer = client.get("/adapters/?ordering=name&page=2")
    assert [row["adapter"].name for row in answer.context["rows"]] == [*names[24:49]]
    assert "?ordering=name&amp;page=3" in answer.content.decode()


def test_what_the_list_cannot_do_is_a_page_of_status_400(client: Client) -> None:
    answer = client.get("/adapters/?ordering=fame")
    assert answer.status_code == 400
    assert "ordering is one of" in answer.content.decode()


def test_a_merge_is_shown_with_report_and_lineage(client: Client, browser: Client, merge: Merge) -> None:
    html = browser.get(f"/merges/{merge.pk}/").content.decode()
    check_html(html)
    assert "91.30%" in html
    assert "ada/one" in html
    child = browser.get("/adapters/ada/both/").content.decode()
    assert "Merged from" in child
    assert f"/merges/{merge.pk}/" in child
    assert "Merged into" in browser.get("/adapters/ada/one/").content.decode()
    client.force_login(create_user("bo", PASSWORD))
    assert client.get(f"/merges/{merge.pk}/").status_code == 404


def test_an_open_job_polls_and_a_finished_one_does_not(client: Client, browser: Client, upload: Upload) -> None:
    job = upload(ready=False).jobs.get()
    JobLog.objects.create(job=job, message="Checking <the> values")
    page = f"/jobs/{job.pk}/"
    html = browser.get(page, headers={"HX-Request": "true"}).content.decode()
    assert 'hx-trigger="every 1s"' in html
    assert "Checking &lt;the&gt; values" in html
    assert "<html" not in html
    problem = {"code": "not_finite", "where": "lora_B", "message": "NaN."}
    error = {"code": "invalid_adapter", "message": "Not usable.", "detail": {"problems": [problem]}}
    Job.objects.update(status="failed", error=error)
    html = browser.get(page).content.decode()
    assert "hx-get" not in html
    assert "lora_B" in html
    client.force_login(create_user("bo", PASSWORD))
    assert client.get(page).status_code == 404


def test_a_job_is_cancelled_from_its_page_once(browser: Client, upload: Upload) -> None:
    job = upload(ready=False).jobs.get()
    for _ in range(2):
        assert browser.post(f"/jobs/{job.pk}/cancel/").headers["Location"] == f"/jobs/{job.pk}/"
        assert Job.objects.get().status == "cancelled"


def test_sign_up_makes_the_namespace_and_logs_in(client: Client) -> None:
    form = {"username": "carol", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post("/signup/", form).headers["Location"] == "/"
    assert Namespace.objects.get().name == "carol"
    assert "carol" in client.get("/").content.decode()


@pytest.mark.parametrize("name", ["admin", "Ada", "a--b", "../x"])
def test_sign_up_refuses_a_name_beside_its_field(client: Client, ada: User, name: str) -> None:
    answer = client.post("/signup/", {"username": name, "password1": PASSWORD, "password2": PASSWORD})
    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == ["username"]
    assert User.objects.count() == 1


def test_sign_up_can_be_closed(client: Client, settings: Any) -> None:
    settings.SIGNUP_OPEN = False
    form = {"username": "carol", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post("/signup/", form).status_code == 403
    assert not User.objects.exists()
    assert "/signup/" not in client.get("/login/").content.decode()


def test_a_token_is_shown_once_works_and_can_be_revoked(client: Client, browser: Client) -> None:
    answer = browser.post("/settings/tokens/", {"name": "laptop", "days": 7})
    secret = answer.context["secret"]
    assert secret in answer.content.decode()
    assert secret not in browser.get("/settings/tokens/").content.decode()
    bearer = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/jobs/", headers=bearer).status_code == 200
    browser.post(f"/settings/tokens/{answer.context['token'].pk}/revoke/")
    assert client.get("/api/v1/jobs/", headers=bearer).status_code == 401


def test_a_token_of_somebody_else_is_not_found(client: Client, browser: Client) -> None:
    token = browser.post("/settings/tokens/", {"name": "laptop", "days": 7}).context["token"]
    client.force_login(create_user("bo", PASSWORD))
    assert client.post(f"/settings/tokens/{token.pk}/revoke/").status_code == 404


@pytest.mark.parametrize("days", ["0", "-1", "99999", "soon"])
def test_a_token_lasts_a_sensible_time(browser: Client, days: str) -> None:
    answer = browser.post("/settings/tokens/", {"name": "laptop", "days": days})
    assert "secret" not in answer.context
    assert list(answer.context["form"].errors) == ["days"]


def test_the_merge_form_is_filled_from_the_address(client: Client) -> None:
    given = {"input": ["ada/one:0.62", "ada/two@" + "a" * 40 + ":-0.5", "bo/three", "", "x" * 999, "a:b"]}
    answer = client.get("/merge/", given)
    assert answer.context["inputs"] == [
        {"adapter": "ada/one", "weight": "0.62"},
        {"adapter": "ada/two@" + "a" * 40, "weight": "-0.5"},
        {"adapter": "bo/three", "weight": ""},
    ]


def test_a_hostile_query_stays_text(client: Client) -> None:
    html = client.get("/merge/", {"input": "</script><script>alert(1)</script>"}).content.decode()
    html += client.get("/retrieve/", {"text": "</textarea><script>alert(1)</script>"}).content.decode()
    assert "<script>alert" not in html


@pytest.mark.parametrize("template", ["400.html", "403.html", "403_csrf.html", "404.html", "500.html"])
def test_error_pages_need_nothing_of_the_request(template: str) -> None:
    html = render_to_string(template)
    check_html(html)
    assert "Loradex" in html


def test_a_card_keeps_its_prose_and_loses_what_could_act() -> None:
    html = render_card(
        "# Title\n\n**bold** <script>alert(1)</script> <img src=x onerror=alert(1)>\n\n"
        "![chart](https://elsewhere.example/x.png) [bad](javascript:alert(1)) [good](https://x.example/a)\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    page = Page(html)
    assert page.inline == []
    assert "<h3>Title</h3>" in html
    assert "<strong>bold</strong>" in html
    assert "<img" not in html
    assert 'href="https://elsewhere.example/x.png"' in html
    assert 'href="javascript' not in html
    assert "<td>1</td>" in html
    assert 'rel="nofollow noopener noreferrer ugc"' in html


def test_a_card_reaches_the_page_as_html(client: Client, ada: User, upload: Upload) -> None:
    card = SimpleUploadedFile("README.md", b"---\nlicense: mit\n---\n# Capitals\n\nAll of *them*.")
    upload(**{"README.md": card})
    html = client.get("/adapters/ada/capitals/").content.decode()
    assert "All of <em>them</em>." in html
    assert "license: mit" not in html


def test_the_numbers_of_a_chart_are_in_the_page_as_json(client: Client, upload: Upload) -> None:
    upload()
    html = client.get("/adapters/ada/capitals/").content.decode()
    block = html.split('<script id="spectrum-data" type="application/json">')[1].split("</script>")[0]
    assert json.loads(block)["lines"][0]["sigma"] == [0.6, 0.4, 0.2, 0.1]
