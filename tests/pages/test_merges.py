"""The page of a merge, in every state, and the address that leads back to its form."""

from typing import Any
from urllib.parse import parse_qs

import pytest
from django.test import Client

from registry.accounts import create_user
from registry.models import Job, Merge, MergeArtefact
from registry.storage import put_bytes
from tests.api.conftest import run_jobs
from tests.pages.conftest import PASSWORD, Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


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


@pytest.fixture
def parents(upload: Upload) -> list[dict[str, Any]]:
    for seed, name in enumerate(("one", "two", "three")):
        upload(f"ada/{name}", seed=seed)
    return [{"adapter": "ada/one", "weight": 0.75}, {"adapter": "ada/two", "weight": 0.25}]


def ask(browser: Client, recipe: dict[str, Any]) -> dict[str, Any]:
    answer = browser.post("/api/v1/merges/", recipe, content_type="application/json")
    assert answer.status_code in (200, 202), answer.content
    return answer.json()["merge"]


def test_a_finished_merge_shows_what_each_parent_adds(browser: Client, parents: list) -> None:
    merge = ask(browser, {"method": "ties", "inputs": parents, "output": {"name": "ada/both"}})
    run_jobs()
    answer = browser.get(f"/merges/{merge['id']}/")
    html = answer.content.decode()
    check_html(html)
    first, second = answer.context["contributions"]
    assert (first["applied"], second["applied"]) == (1.5, 0.5)
    assert first["percent"] + second["percent"] == pytest.approx(100)
    assert second["start"] == first["percent"]
    assert first["percent"] > second["percent"]
    assert [row["cells"][index]["value"] for index, row in enumerate(answer.context["cosine"])] == pytest.approx([1, 1])
    assert [module["path"].split(".")[2] for module in answer.context["modules"]] == ["0", "0", "1", "1"]
    for text in ("Open the expert", "/archive/", "What each parent adds", "Change and merge again"):
        assert text in html


def test_every_picture_of_a_merge_has_its_numbers_as_a_table(browser: Client, parents: list) -> None:
    output = {"rank": {"mode": "fixed", "value": 2}}
    merge = ask(browser, {"method": "weighted_sum", "inputs": parents, "output": output})
    run_jobs()
    answer = browser.get(f"/merges/{merge['id']}/")
    html = answer.content.decode()
    check_html(html)
    layers, curve = answer.context["layers"], answer.context["curve"]
    assert layers["layers"] == ["0", "1"]
    for shares in zip(*(parent["shares"] for parent in layers["parents"]), strict=True):
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert sum(row["contributed"] for row in answer.context["contributions"]) == pytest.approx(100, abs=1e-3)
    assert curve["chosen"] == 2
    assert "2 (this file)" in html
    for source in ("curve-data", "layers-data", "matrix-data"):
        assert f'id="{source}"' in html
    for parent in layers["parents"]:
        assert f'<th scope="row">{parent["name"]}</th>' in html


def test_an_open_merge_is_watched_until_it_has_finished(browser: Client, parents: list) -> None:
    merge = ask(browser, {"method": "weighted_sum", "inputs": parents})
    path = f"/merges/{merge['id']}/"
    assert 'hx-trigger="every 1s"' in browser.get(path).content.decode()
    part = browser.get(path, headers={"HX-Request": "true"})
    assert "<html" not in part.content.decode()
    assert "Waiting for a worker" in part.content.decode()
    run_jobs()
    # The whole page is another one then.
    assert browser.get(path, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"
    assert "hx-get" not in browser.get(path).content.decode()


def test_a_failed_merge_names_the_inputs_that_stood_in_its_way(browser: Client, parents: list) -> None:
    merge = ask(browser, {"method": "weighted_sum", "inputs": parents})
    reason = {"adapter": "ada/two", "code": "dora", "message": "It is a <DoRA> adapter."}
    error = {"code": "not_mergeable", "message": "Not possible.", "detail": {"inputs": [reason]}}
    Job.objects.filter(merge=merge["id"]).update(status="failed", error=error)
    html = browser.get(f"/merges/{merge['id']}/").content.decode()
    assert "<strong>ada/two</strong>: It is a &lt;DoRA&gt; adapter." in html
    assert "There is no report" in html
    assert "Change and merge again" in html


def test_the_form_gets_every_choice_back(browser: Client, parents: list) -> None:
    output = {"name": "ada/both", "visibility": "private", "rank": {"mode": "energy", "value": 0.9}, "dtype": "float16"}
    merge = ask(browser, {"method": "ties", "inputs": parents, "params": {"density": 0.5}, "output": output})
    query = parse_qs(browser.get(f"/merges/{merge['id']}/").context["form_query"])
    revisions = [item["revision"] for item in merge["inputs"]]
    assert query["input"] == [f"ada/one@{revisions[0]}:0.75", f"ada/two@{revisions[1]}:0.25"]
    assert {name: query[name] for name in ("method", "rank", "dtype", "name", "visibility")} == {
        "method": ["ties"],
        "rank": ["energy:0.9"],
        "dtype": ["float16"],
        "name": ["ada/both"],
        "visibility": ["private"],
    }
    assert query["param.density"] == ["0.5"]
    assert query["param.scope"] == ["tensor"]
    plain = ask(browser, {"method": "weighted_sum", "inputs": parents})
    assert parse_qs(browser.get(f"/merges/{plain['id']}/").context["form_query"])["publish"] == ["no"]


def test_the_recipe_on_the_page_is_the_one_that_was_asked_for(browser: Client, parents: list) -> None:
    merge = ask(browser, {"method": "ties", "inputs": parents, "output": {"name": "ada/both"}})
    run_jobs()
    assert ask(browser, browser.get(f"/merges/{merge['id']}/").context["recipe"])["id"] == merge["id"]


def test_a_thousand_modules_and_many_parents_stay_a_table(browser: Client, parents: list) -> None:
    names = [*parents, {"adapter": "ada/three", "weight": 0.5}]
    merge = ask(browser, {"method": "weighted_sum", "inputs": names})
    rows = [
        {"path": f"model.layers.{number}.q", "rank": 4, "energy_kept": 1, "relative_error": 0, "norm_in": [1, 2, 3]}
        for number in range(1000)
    ]
    modules = [row | {"norm_out": 1} for row in rows]
    report = {"energy_kept": 1, "relative_error": 0, "warnings": [], "per_module": modules}
    artefact = MergeArtefact.objects.create(
        recipe_hash="c" * 64, weights=put_bytes(b"w"), config=put_bytes(b"c"), report=report
    )
    Merge.objects.filter(pk=merge["id"]).update(artefact=artefact)
    Job.objects.filter(merge=merge["id"]).update(status="succeeded", result={"merge": merge["id"]})
    answer = browser.get(f"/merges/{merge['id']}/")
    assert len(answer.context["modules"]) == 1000
    assert answer.context["modules"][2]["path"] == "model.layers.2.q"
    assert answer.context["modules"][0]["most"] == "ada/three"
    assert answer.context["cosine"] is None


@pytest.mark.parametrize(
    ("scale", "chosen", "sentence"),
    [
        (None, 0.5, "The skill is in at 0.5: of the strengths at which ada/one keeps a loss of at most 0.34"),
        (None, 0.0, "Nothing of the skill was added"),
        (0.5, 0.5, "The recipe asks for the skill at 0.5."),
    ],
)
def test_the_curve_of_an_added_skill_is_drawn_and_listed(
    scale: float | None, chosen: float, sentence: str, browser: Client, merge: Merge
) -> None:
    curve = [
        {"scale": 0.0, "skill_loss": 3.0, "general_loss": 0.2},
        {"scale": 0.5, "skill_loss": 1.2345, "general_loss": 0.205},
    ]
    found = {"scale": chosen, "weights": [1.0, chosen], "base_loss": 3.0, "curve": curve}
    MergeArtefact.objects.update(report=merge.artefact.report | {"found": found})
    Merge.objects.update(method="add_skill", params={"scale": scale, "tolerance": 0.05})
    answer = browser.get(f"/merges/{merge.pk}/")
    html = answer.content.decode()
    check_html(html)
    assert sentence in html
    assert answer.context["tradeoff"]["points"] == curve
    assert 'data-chart="tradeoff"' in html
    assert '<td class="number">1.234</td>' in html
    assert f'<td class="number">{chosen:.3g} (this file)</td>' in html
    assert [row["applied"] for row in answer.context["contributions"]] == [1, chosen]
