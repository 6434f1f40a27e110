"""Image, compose file, manifests and units: linted, and consistent with the code that they run."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = Path(sysconfig.get_path("scripts"))
# Read by the libraries in the image.
IMAGE_ONLY = {"HOME", "PATH", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY"}


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120, **options)


def known_variables() -> set[str]:
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yml").read_text())


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes" / "loradex.yaml").read_text()))


def pods() -> list[dict[str, Any]]:
    return [found["spec"]["template"]["spec"] for found in manifests() if found["kind"] in ("Deployment", "Job")]


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "docker/Dockerfile"),
        ("shellcheck", "docker/entrypoint", "docker/new-env"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yml"),
        ("kubernetes-validate", "--strict", "docker/kubernetes/loradex.yaml"),
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command: tuple[str, ...]) -> None:
    done = run(SCRIPTS / command[0], *command[1:], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_is_copied_into_the_image_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = (DOCKER / "Dockerfile").read_text()
    sources = [name for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert {"config", "requirements.txt", "docker/entrypoint"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert source in kept


def test_every_package_of_the_code_is_copied_into_the_image() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    for name in ("lora", "registry", "retrieval", "workers", "config", "templates", "static"):
        assert re.search(rf"^COPY {name} {name}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["entrypoint", "healthcheck", "new-env"])
def test_scripts_can_be_executed(name: str) -> None:
    assert os.access(DOCKER / name, os.X_OK)


def test_only_variables_that_exist_are_set() -> None:
    environments = [compose()["services"][name]["environment"] for name in ("web", "worker")]
    environments += [found["data"] for found in manifests() if found["kind"] == "ConfigMap"]
    secret = (DOCKER / "kubernetes" / "secret.env.example").read_text()
    environments.append(dict.fromkeys(re.findall(r"^([A-Z_]+)=", secret, re.MULTILINE)))
    image = re.search(r"^ENV DATA_DIR(?:.*\\\n)*.*", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)[0]
    set_by_image = set(re.findall(r"\b([A-Z][A-Z_]+)=", image))
    assert {"STATIC_ROOT", "METRICS_PORT"} <= set_by_image
    python_only = {name for name in set_by_image if name.startswith("PYTHON")}
    assert set_by_image - IMAGE_ONLY - python_only <= known_variables()
    for environment in environments:
        assert set(environment) <= known_variables()


def test_no_secret_has_a_default() -> None:
    text = (DOCKER / "compose.yml").read_text()
    used = re.findall(r"\$\{(\w*(?:KEY|PASSWORD)\w*)(:\?[^}]*)?", text)
    assert {name for name, _ in used} >= {"SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY"}
    guarded = {name for name, required in used if required}
    assert {name for name, _ in used} == guarded


def test_our_containers_can_write_only_where_they_must() -> None:
    for name in ("web", "worker"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["tmpfs"] == ["/tmp"]
        assert [mount.split(":")[1] for mount in service["volumes"]] == ["/data"]
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
            assert "memory" in container["resources"]["limits"]


def test_what_is_started_waits_for_what_it_needs() -> None:
    services = compose()["services"]
    for name in ("web", "worker"):
        for other, how in services[name]["depends_on"].items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
    used = {mount.split(":")[0] for found in services.values() for mount in found.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(compose()["volumes"])


def test_mounted_files_exist() -> None:
    for service in compose()["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith(".") or (DOCKER / source).exists()


def test_selectors_of_the_manifests_select_pods() -> None:
    labels = [
        found["spec"]["template"]["metadata"]["labels"]
        for found in manifests()
        if found["kind"] in ("Deployment", "Job")
    ]
    for found in manifests():
        selector = found["spec"].get("selector", {}) if found["kind"] in ("Service", "PodDisruptionBudget") else {}
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= label.items() for label in labels)


def test_new_env_makes_secrets_once(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "new-env", tmp_path)
    assert run(tmp_path / "new-env").returncode == 0
    written = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    secrets = re.findall(r"^\w*(?:SECRET|PASSWORD)\w*=(.*)$", written, re.MULTILINE)
    assert len(set(secrets)) == len(secrets) >= 5
    assert min(map(len, secrets)) >= 64
    assert run(tmp_path / "new-env").returncode != 0
    assert (tmp_path / ".env").read_text() == written
    needed = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yml").read_text()))
    assert needed <= set(re.findall(r"^(\w+)=", written, re.MULTILINE))


def test_units_run_what_exists() -> None:
    for path in (DOCKER / "systemd").glob("*.service"):
        text = path.read_text()
        for command in re.findall(r"manage\.py (\w+)", text):
            assert (
                ROOT / "workers" / "management" / "commands" / f"{command}.py"
            ).exists() or command == "collectstatic"
        assert "NoNewPrivileges=yes" in text
