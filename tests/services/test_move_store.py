"""`manage.py move_store`: from files to S3 and back, while the site serves, broken off and gone on with."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from registry.stores.base import key_of
from tests.journeys.server import ROOT, Client, Site, running_site
from tests.lora.factories import write_adapter_files
from tests.services.fault_proxy import drop, running_proxy

pytestmark = pytest.mark.journey
WEIGHTS = "adapter_model.safetensors"


def move(site: Site, env: dict[str, str], *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "manage.py", "move_store", *flags]
    return subprocess.run(
        command, cwd=ROOT, env=site.env | env, capture_output=True, text=True, timeout=120, check=False
    )


def check_download(client: Client, name: str, folder: Path) -> None:
    got = client.get(f"/adapters/{name}/files/{WEIGHTS}")
    assert got.status_code == 200, got.text
    assert hashlib.sha256(got.content).digest() == hashlib.sha256((folder / WEIGHTS).read_bytes()).digest()


def test_files_move_to_s3_and_back(seaweed, tmp_path):
    """I1, I5, I8: verified on both sides, nothing removed, nothing copied twice."""
    bucket = seaweed.make_bucket()
    s3 = seaweed.env(bucket)
    folders = {f"ada/{number}": write_adapter_files(tmp_path / str(number), seed=number) for number in (1, 2, 3)}
    with running_site(tmp_path / "data") as site:
        ada = site.client(token := site.create_token("ada"))
        ada.upload_ready("ada/1", folders["ada/1"])
        ada.upload_ready("ada/2", folders["ada/2"])
        assert "S3_BUCKET is not set" in move(site, {}).stderr

        with running_proxy(seaweed.url) as proxy:
            # The first files arrive, then the store is gone.
            proxy.inject(lambda handler, body: handler.relay(body), methods="PUT", count=2)
            proxy.inject(drop, methods="PUT")
            broken_off = move(site, seaweed.env(bucket, proxy.url))
        assert broken_off.returncode == 1
        assert "Run it again to go on" in broken_off.stderr

        ada.upload_ready("ada/3", folders["ada/3"])
        whole = move(site, s3)
        assert whole.returncode == 0, whole.stderr
        assert "2 were there already, 0 damaged" in whole.stdout
        for name, folder in folders.items():
            check_download(ada, name, folder)

    with running_site(tmp_path / "data", **s3) as site:
        ada = site.client(token)
        assert "0 missing or damaged, 0 orphans" in site.manage("check_store", "--deep")
        for name, folder in folders.items():
            check_download(ada, name, folder)
        assert ada.get(f"/adapters/ada/1/files/{WEIGHTS}", allow_redirects=False).status_code == 302

        [lost] = [file for file in ada.get("/adapters/ada/1/").json()["files"] if file["path"] == WEIGHTS]
        local = tmp_path / "data" / "files" / key_of(lost["sha256"])
        local.unlink()
        back = move(site, s3, "--back")
        assert back.returncode == 0, back.stderr
        assert ": 1 copied," in back.stdout
        assert hashlib.sha256(local.read_bytes()).hexdigest() == lost["sha256"]

        local.write_bytes(bytes(lost["size_bytes"]))
        seaweed.client().delete_object(Bucket=bucket, Key=key_of(lost["sha256"]))
        damaged = move(site, s3)
        assert damaged.returncode == 1
        assert f"damaged   {lost['sha256']}" in damaged.stderr
