"""What follows from EXTERNAL_URL, whom the site believes, and which addresses it answers to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.proxies import client_address, parse_networks

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = {
    "EXTERNAL_URL": "https://lora.example.org",
    "SECRET_KEY": "0123456789abcdef" * 4,
    "HOST": "0.0.0.0",
}


def manage(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "SECRET_KEY")}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=kept | {"DATA_DIR": str(tmp_path), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")} | env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_production_site_passes_the_deployment_check(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert done.returncode == 0, done.stderr


def test_the_deployment_check_warns_of_a_made_up_key_and_of_http(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode != 0
    assert "loradex.W001" in done.stderr
    assert "loradex.W002" in done.stderr


def test_processes_that_start_together_make_up_one_key(tmp_path: Path) -> None:
    code = "from config import settings; print(settings.SECRET_KEY)"
    env = os.environ | {"DATA_DIR": str(tmp_path)}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    keys = {process.communicate(timeout=120)[0].strip() for process in started}
    assert len(keys) == 1
    assert len(keys.pop()) >= 50
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0


@pytest.fixture
def https(settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 3600
    settings.ALLOWED_HOSTS = ["lora.example.org"]


@pytest.mark.django_db
def test_http_is_sent_to_https_but_for_probes(https, client) -> None:
    answer = client.get("/adapters/", headers={"Host": "lora.example.org"})
    assert (answer.status_code, answer["Location"]) == (301, "https://lora.example.org/adapters/")
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8000"}).status_code == 200
    answer = client.get("/adapters/", headers={"Host": "lora.example.org"}, secure=True)
    assert answer.status_code == 200
    assert answer["Strict-Transport-Security"] == "max-age=3600"


@pytest.mark.django_db
def test_a_header_of_the_client_does_not_make_it_https(https, client) -> None:
    """Only gunicorn, which knows the peer, decides about the scheme."""
    spoofed = {"Host": "lora.example.org", "X-Forwarded-Proto": "https"}
    assert client.get("/adapters/", headers=spoofed).status_code == 301


@pytest.mark.django_db
def test_another_host_name_is_refused(client) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    answer = client.get("/api/v1/adapters/", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert "ALLOWED_HOSTS" in answer.json()["message"]


@pytest.mark.django_db
def test_a_page_without_its_slash_is_redirected_and_an_api_path_is_not(client) -> None:
    answer = client.get("/adapters?tag=qa")
    assert (answer.status_code, answer["Location"]) == (301, "/adapters/?tag=qa")
    assert client.post("/upload").status_code == 404
    assert client.get("/nothing/here").status_code == 404
    answer = client.get("/api/v1/adapters")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.django_db
def test_every_answer_has_the_security_headers(client) -> None:
    for path in ("/", "/healthz", "/api/v1/adapters/", "/nope/"):
        answer = client.get(path)
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Referrer-Policy"] == "same-origin"
        assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "camera=()" in answer["Permissions-Policy"]
        assert "default-src 'self'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.7", "10.0.0.1", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "1.1.1.1, 203.0.113.7, 10.0.0.9", "203.0.113.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "nonsense", "nonsense"),
    ],
)
def test_only_our_proxies_say_who_asks(settings, peer: str, forwarded: str, address: str) -> None:
    settings.TRUSTED_PROXIES = parse_networks("127.0.0.1 10.0.0.0/24")
    assert client_address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}) == address
