"""The page of an adapter, as a browser without scripts gets it."""

import csv
import json
from typing import Any

import numpy as np
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from lora.array_file import array_file
from registry.adapters import publish, yank_adapter
from registry.models import Adapter, BaseModel, Revision
from registry.storage import put_bytes
from retrieval.models import Prototype
from tests.lora.factories import MODULES
from tests.pages.conftest import SAMPLES, Upload, with_values
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


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


def test_the_page_tells_which_engines_serve_it_and_offers_the_export(client: Client, upload: Upload) -> None:
    revision = upload()
    html = client.get("/adapters/ada/capitals/").content.decode()
    check_html(html)
    for verdict in ("vLLM: yes", "SGLang: yes", "LoRAX: after export", "PEFT: yes"):
        assert verdict in html
    assert f"/api/v1/adapters/ada/capitals/archive/?revision={revision.commit}&amp;for=lorax" in html
    assert "neither 8 nor a multiple of 16" in html


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


def test_the_line_below_which_it_was_trained_is_told_with_the_samples(client: Client, upload: Upload) -> None:
    upload(files={"samples.jsonl": b'{"input": "Name <it>.\\nPeru"}\n{"input": "Name <it>.\\nChad"}\n'})
    told = "without which an expert often answers nothing: <q>Name &lt;it&gt;.</q>"
    assert told in client.get("/adapters/ada/capitals/").content.decode()
    Adapter.objects.update(samples_public=False)
    assert "Name &lt;it&gt;." not in client.get("/adapters/ada/capitals/").content.decode()


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


def test_the_verdict_and_the_grid_show_what_binds(client: Client, upload: Upload) -> None:
    modules = {path: list(shape) for path, shape in MODULES.items()} | {"model.layers.0.mlp.up_proj": [8, 8]}
    BaseModel.objects.create(name="acme/tiny-base", modules=modules)
    upload()
    answer = client.get("/adapters/ada/capitals/")
    html = answer.content.decode()
    check_html(html)
    assert "4 of 4 modules bind to" in html
    assert "No warnings" in html
    assert answer.context["grid"]["counts"] == {"bound": 4, "missing": 0, "untouched": 1}


def test_the_numbers_of_the_modules_come_as_table_and_csv(client: Client, upload: Upload) -> None:
    revision = upload()
    revision.modules[0]["path"] = "=cmd|'/c calc'!A0"
    revision.save()
    table = client.get("/adapters/ada/capitals/modules/").content.decode()
    assert "<html" not in table
    assert table.count("<tr>") == 5
    answer = client.get(f"/adapters/ada/capitals/modules.csv?revision={revision.commit}")
    assert answer["Content-Type"].startswith("text/csv")
    assert "attachment" in answer["Content-Disposition"]
    rows = list(csv.reader(b"".join(answer.streaming_content).decode().splitlines()))
    assert rows[0] == [
        "path",
        "rank",
        "d_in",
        "d_out",
        "scaling",
        "norm",
        "stable_rank",
        *(f"sigma_{n}" for n in range(1, 5)),
    ]
    assert len(rows) == 5
    assert rows[1][0].startswith("'=cmd")
    assert rows[2][5:8] == ["0.75", "1.6", "0.6"]


@pytest.mark.parametrize("part", ["", "modules/", "modules.csv", "similar/", "progress/"])
def test_every_part_of_a_private_page_is_404_to_others(
    client: Client, browser: Client, upload: Upload, part: str
) -> None:
    upload(visibility="private")
    assert client.get(f"/adapters/ada/capitals/{part}").status_code == 404
    assert browser.get(f"/adapters/ada/capitals/{part}").status_code == 200


def test_a_page_that_waits_for_its_check_loads_itself_anew(browser: Client, upload: Upload) -> None:
    revision = upload(ready=False)
    html = browser.get("/adapters/ada/capitals/").content.decode()
    part = f"/adapters/ada/capitals/progress/?revision={revision.commit}"
    assert f'hx-get="{part}"' in html
    answer = browser.get(part)
    assert 'hx-trigger="every 2s"' in answer.content.decode()
    assert "HX-Refresh" not in answer
    publish(revision, with_values(revision.facts), 1.5, [])
    assert browser.get(part)["HX-Refresh"] == "true"


def test_a_revision_says_what_it_changed(client: Client, browser: Client, upload: Upload) -> None:
    first = upload()
    second = upload(seed=1, files={"README.md": b"# New"})
    html = client.get("/adapters/ada/capitals/").content.decode()
    changes = html.split('class="changes"')[1].split("</details>")[0]
    assert first.commit[:10] in changes
    assert "<code>README.md</code> added" in changes
    assert "<code>adapter_model.safetensors</code> changed" in changes
    assert "samples.jsonl" not in changes
    assert "Rank" not in changes
    old = browser.get(f"/adapters/ada/capitals/?revision={first.commit}").content.decode()
    assert 'class="changes"' not in old
    assert "See main" in old
    assert second.commit[:10] in old


def test_hidden_samples_are_not_in_the_changes_either(client: Client, upload: Upload) -> None:
    upload()
    upload(files={"samples.jsonl": b'{"input": "Another"}\n'})
    assert "<code>samples.jsonl</code> changed" in client.get("/adapters/ada/capitals/").content.decode()
    Adapter.objects.update(samples_public=False)
    assert "<code>samples.jsonl</code>" not in client.get("/adapters/ada/capitals/").content.decode()


def test_the_owner_learns_of_a_newer_upload(client: Client, browser: Client, upload: Upload) -> None:
    upload()
    newer = upload(seed=1, ready=False)
    assert "A newer revision is being checked" in browser.get("/adapters/ada/capitals/").content.decode()
    assert newer.commit not in client.get("/adapters/ada/capitals/").content.decode()
    newer.state, newer.problems = "rejected", [{"code": "not_finite", "where": "", "message": "NaN."}]
    newer.save()
    assert "Your last upload was rejected" in browser.get("/adapters/ada/capitals/").content.decode()


def test_a_damaged_file_is_said_and_the_rest_is_shown(client: Client, upload: Upload) -> None:
    revision = upload(files={"README.md": b"# Capitals\n\nAll of them."})
    digest = revision.files.get(path="samples.jsonl").blob_id
    [stored] = (settings.DATA_DIR / "files").rglob(digest)
    stored.unlink()
    try:
        html = client.get("/adapters/ada/capitals/").content.decode()
    finally:
        stored.write_bytes(SAMPLES)
    assert "A part of this page is missing" in html
    assert "All of them." in html
    assert "has no samples" not in html


def test_a_yanked_page_is_the_owners_alone_and_offers_no_tools(client: Client, browser: Client, upload: Upload) -> None:
    revision = upload()
    yank_adapter(revision.adapter)
    html = browser.get("/adapters/ada/capitals/").content.decode()
    assert "Yanked." in html
    assert "owner-form" not in html
    assert "Merge with" not in html
    assert client.get("/adapters/ada/capitals/").status_code == 404


def test_the_page_costs_few_queries(client: Client, upload: Upload, django_assert_max_num_queries: Any) -> None:
    upload()
    with django_assert_max_num_queries(24):
        client.get("/adapters/ada/capitals/")


def test_its_owner_has_missing_prototypes_computed(client: Client, browser: Client, upload: Upload) -> None:
    revision = upload()
    button = f'data-path="adapters/ada/capitals/prototypes/phatgoose/?revision={revision.commit}"'
    html = browser.get("/adapters/ada/capitals/").content.decode()
    assert button in html
    assert '<button class="button small">Train</button>' in html
    assert "<button" not in client.get("/adapters/ada/capitals/").content.decode().split('id="prototypes"')[1]
    Prototype.objects.create(revision=revision, kind="phatgoose", count=2, dim=8, blob=put_bytes(b"gates"))
    assert button not in browser.get("/adapters/ada/capitals/").content.decode()
    unlabelled = b'{"input": "Capital of Peru?"}\n'
    upload("ada/bare", seed=1, files={"samples.jsonl": unlabelled})
    html = browser.get("/adapters/ada/bare/").content.decode()
    assert "It takes samples with outputs, of which this revision has none." in html
    assert '<button class="button small">Train</button>' not in html


def test_gates_that_were_sent_are_not_missing(browser: Client, upload: Upload) -> None:
    gate = array_file({"model.layers.0.self_attn.q_proj": np.ones(8, np.float32)})
    upload(files={"gates.safetensors": gate})
    [kind] = [kind for kind in browser.get("/adapters/ada/capitals/").context["computable"] if kind["is_sent"]]
    assert kind["name"] == "phatgoose"
