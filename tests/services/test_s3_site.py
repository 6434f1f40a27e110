"""A site whose files are in S3, over HTTP: redirects to the store, and what callers see when it fails."""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from registry.stores.base import key_of
from registry.stores.s3 import PART_BYTES
from tests.journeys.server import Client, Site, running_site, wait_for
from tests.lora.factories import write_adapter_files
from tests.services.fault_proxy import Handler, Proxy, answer, drop, flip_bit, running_proxy, truncate
from tests.services.seaweed import SeaweedFS

pytestmark = pytest.mark.journey

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def proxy(seaweed: SeaweedFS) -> Iterator[Proxy]:
    with running_proxy(seaweed.url) as between:
        yield between


@pytest.fixture(scope="module")
def bucket(seaweed: SeaweedFS) -> str:
    return seaweed.make_bucket()


@pytest.fixture(scope="module")
def site(seaweed: SeaweedFS, proxy: Proxy, bucket: str, tmp_path_factory) -> Iterator[Site]:
    """It speaks to the store through the proxy; its callers are sent to the store itself."""
    with running_site(tmp_path_factory.mktemp("site"), **seaweed.env(bucket, proxy.url)) as running:
        yield running


@pytest.fixture(scope="module")
def ada(site: Site) -> Client:
    return site.client(site.create_token("ada"))


@pytest.fixture(scope="module")
def folder(ada: Client, tmp_path_factory) -> Path:
    """The files of `ada/one`, public and ready."""
    folder = write_adapter_files(tmp_path_factory.mktemp("one"), seed=1)
    ada.upload_ready("ada/one", folder, samples=["first question", "second question"])
    return folder


@pytest.fixture(autouse=True)
def _healed(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.heal()


def test_a_download_is_a_redirect_to_the_store(site, seaweed, folder):
    """I1: what comes has the digest that the registry states."""
    anybody, path = site.client(), f"/adapters/ada/one/files/{WEIGHTS}"
    data = (folder / WEIGHTS).read_bytes()
    [stated] = [file for file in anybody.get("/adapters/ada/one/").json()["files"] if file["path"] == WEIGHTS]
    before = anybody.get("/adapters/ada/one/").json()["downloads"]

    redirect = anybody.get(path, allow_redirects=False)
    assert redirect.status_code == 302
    assert redirect.headers["Location"].startswith(seaweed.url)
    assert redirect.headers["Cache-Control"] == "no-store"
    whole = anybody.get(path)
    assert whole.content == data
    assert hashlib.sha256(whole.content).hexdigest() == stated["sha256"]
    assert whole.headers["Content-Disposition"] == f'attachment; filename="{WEIGHTS}"'
    part = anybody.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert anybody.get("/adapters/ada/one/").json()["downloads"] == before + 2

    head = anybody.request("HEAD", path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))
    assert head.headers["ETag"] == redirect.headers["ETag"] == f'"{stated["sha256"]}"'
    assert anybody.get(path, headers={"If-None-Match": head.headers["ETag"]}).status_code == 304


def test_a_private_file_is_signed_for_those_who_may_read_it_alone(site, ada, tmp_path):
    ada.upload_ready("ada/secret", write_adapter_files(tmp_path, seed=2), visibility="private")
    path = f"/adapters/ada/secret/files/{WEIGHTS}"
    assert site.client().get(path).status_code == 404
    assert site.client(site.create_token("eve")).get(path).status_code == 404
    # The token goes to us, the signature to the store: a client does not take the header along to another host.
    assert ada.get(path).content == (tmp_path / WEIGHTS).read_bytes()
    unsigned = ada.get(path, allow_redirects=False).headers["Location"].split("?")[0]
    assert requests.get(unsigned, timeout=10).status_code == 403


def test_experts_in_the_store_are_retrieved_merged_and_downloaded(site, ada, folder, tmp_path):
    other = write_adapter_files(tmp_path, seed=3)
    ada.upload_ready("ada/two", other, samples=["third question"])
    [found] = ada.post("/retrieve/", json={"router": "lora_retriever", "text": "first question", "k": 1}).json()[
        "results"
    ]
    assert found["matches"][0]["adapter"] == "ada/one"
    inputs = [{"adapter": "ada/one"}, {"adapter": "ada/two"}]
    answered = ada.post("/merges/", json={"method": "weighted_sum", "inputs": inputs}).json()
    assert ada.finished(answered["job"])["status"] == "succeeded"
    archive = ada.get(f"/merges/{answered['merge']['id']}/archive/")
    assert WEIGHTS in zipfile.ZipFile(io.BytesIO(archive.content)).namelist()


def test_an_archive_holds_the_files(site, folder):
    archive = zipfile.ZipFile(io.BytesIO(site.client().get("/adapters/ada/one/archive/").content))
    assert archive.testzip() is None
    assert archive.read(WEIGHTS) == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("fault", [flip_bit, truncate(lambda size: size - 1)], ids=["flipped", "truncated"])
def test_an_archive_with_a_damaged_file_breaks_off(site, proxy, folder, fault):
    """I1: the client hears of it, from its library in the middle of the body or from us before."""
    proxy.inject(fault, methods="GET")
    with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
        assert site.client().get("/adapters/ada/one/archive/").status_code >= 500


def test_downloads_say_when_to_try_again_while_the_store_is_away(site, proxy, folder):
    """I10."""
    proxy.inject(drop)
    for path in (f"/adapters/ada/one/files/{WEIGHTS}", "/adapters/ada/one/archive/"):
        refused = site.client().get(path, allow_redirects=False)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["Retry-After"]) > 0
    assert site.client().get("/adapters/ada/one/").status_code == 200
    ready = requests.get(site.url + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()["checks"]["store"]) == (503, False)
    proxy.heal()
    assert site.client().get("/adapters/ada/one/archive/").status_code == 200


def test_a_store_that_goes_away_in_mid_upload_leaves_nothing_visible(site, proxy, ada, tmp_path):
    """I1, I2, I8: 503, no adapter, no spooled file; the same request succeeds later, and then nothing differs."""
    wide = {f"model.layers.{number}.self_attn.q_proj": (1024, 1024) for number in range(24)}
    folder = write_adapter_files(tmp_path, modules=wide, rank=128)
    assert (folder / WEIGHTS).stat().st_size > 2 * PART_BYTES
    parts = []

    def gone_after_two_parts(handler: Handler, body: bytes) -> None:
        parts.append(handler.path) if "partNumber" in handler.path else None
        return handler.relay(body) if len(parts) <= 2 and len(body) < PART_BYTES + 1 else drop(handler, body)

    proxy.inject(gone_after_two_parts)
    refused = ada.upload("ada/large", folder)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert int(refused.headers["Retry-After"]) > 0
    assert len(parts) > 2
    proxy.heal()
    assert ada.get("/adapters/ada/large/").status_code == 404
    assert wait_for(lambda: not list((site.data_dir / "incoming").iterdir()), 10, "the spool to be emptied")
    assert ada.upload_ready("ada/large", folder)["state"] == "ready"
    assert ada.get(f"/adapters/ada/large/files/{WEIGHTS}").content == (folder / WEIGHTS).read_bytes()
    assert "0 missing or damaged, 0 orphans" in site.manage("check_store", "--deep", "--delete-orphans")


def test_a_write_that_the_store_refuses_for_good_is_a_503_too(site, proxy, ada, tmp_path):
    proxy.inject(answer(403), methods="PUT POST")
    refused = ada.upload("ada/refused", write_adapter_files(tmp_path, seed=4))
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert "secret" not in refused.text
    assert ada.get("/adapters/ada/refused/").status_code == 404


def test_a_file_replaced_in_the_store_is_not_handed_out(site, seaweed, bucket, ada, tmp_path):
    """I1, I8."""
    adapter = ada.upload_ready("ada/replaced", write_adapter_files(tmp_path, seed=5))
    [file] = [file for file in adapter["files"] if file["path"] == WEIGHTS]
    client, key = seaweed.client(), key_of(file["sha256"])
    client.delete_object(Bucket=bucket, Key=key)
    assert ada.get(f"/adapters/ada/replaced/files/{WEIGHTS}").status_code == 503
    client.put_object(Bucket=bucket, Key=key, Body=bytes(file["size_bytes"]), ChecksumAlgorithm="SHA256")
    assert ada.get(f"/adapters/ada/replaced/files/{WEIGHTS}").status_code == 503
    assert ada.get("/adapters/ada/replaced/archive/").status_code == 503
    with pytest.raises(AssertionError, match="differ"):
        site.manage("check_store")
    client.put_object(Bucket=bucket, Key=key, Body=(tmp_path / WEIGHTS).read_bytes(), ChecksumAlgorithm="SHA256")
    site.manage("check_store", "--deep")
