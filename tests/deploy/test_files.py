"""Compose, Dockerfile and manifests say what they should; none of them is run here."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
BASE = ROOT / "deploy/kubernetes/base"


def manifests() -> list[dict[str, Any]]:
    names = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in BASE.glob("*.yaml")} == {*names, "kustomization.yaml"}
    return [one for name in names for one in yaml.safe_load_all((BASE / name).read_text())]


def test_what_compose_mounts_is_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./") and source not in ("./models", "./keys"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])


def test_images_are_pinned_and_ports_are_this_machines() -> None:
    for name, service in COMPOSE["services"].items():
        if not name.startswith("maskline"):
            assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_the_service_runs_with_as_little_as_it_needs() -> None:
    for name in ("maskline-cpu", "maskline-gpu"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "unless-stopped"
        grace = int(service["stop_grace_period"].removesuffix("s"))
        assert grace > Settings().drain_delay_s + Settings().drain_limit_s
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text()
    assert COMPOSE["services"]["maskline-cpu"]["profiles"] == ["cpu"]


def test_settings_in_the_environment_exist() -> None:
    text = "\n".join(
        path.read_text()
        for path in (ROOT / "Dockerfile", ROOT / "docker-compose.yml", BASE / "deployment.yaml")
    )
    named = set(re.findall(r"MASKLINE_([A-Z_]+)", text))
    assert {"MODELS_DIR", "RECORD_DIR", "KEYS_FILE"} <= named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_the_dockerfile_copies_what_is_there_and_drops_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER maskline$", final, flags=re.MULTILINE)
    assert "HEALTHCHECK" in final


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: one["kind"])
def test_manifests_fit_kubernetes_schemas(manifest: dict[str, Any]) -> None:
    if manifest["apiVersion"].startswith("monitoring.coreos.com"):
        pytest.skip("a custom resource: Kubernetes has no schema for it")
    kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_probes_ask_for_what_the_service_answers() -> None:
    (deployment,) = [one for one in manifests() if one["kind"] == "StatefulSet"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {
        container[p]["httpGet"]["path"] for p in ("readinessProbe", "livenessProbe", "startupProbe")
    }
    assert paths == {"/health/ready", "/health/live"}
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > Settings().drain_delay_s + Settings().drain_limit_s
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_record_outlives_its_pod() -> None:
    (replicas,) = [one for one in manifests() if one["kind"] == "StatefulSet"]
    claims = {one["metadata"]["name"] for one in replicas["spec"]["volumeClaimTemplates"]}
    (container,) = replicas["spec"]["template"]["spec"]["containers"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert mounts["/results"] in claims
