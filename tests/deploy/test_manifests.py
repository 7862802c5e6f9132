"""The Kubernetes manifests: what a schema cannot know, such as names that must agree."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES: list[dict[str, Any]] = [
    resource
    for name in KUSTOMIZATION["resources"]
    for resource in yaml.safe_load_all((FOLDER / name).read_text())
]
WORKLOADS = [each for each in RESOURCES if each["kind"] in ("Deployment", "Job")]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in RESOURCES if each["kind"] == kind]


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(workload)["containers"]
    return only


def named(name: str) -> dict[str, Any]:
    return next(each for each in WORKLOADS if each["metadata"]["name"] == name)


def test_every_file_is_part_of_it() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files
    assert {each["metadata"].get("namespace", "halflayer") for each in RESOURCES} == {"halflayer"}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])
def test_nothing_runs_with_more_rights_than_it_needs(workload: dict[str, Any]) -> None:
    assert pod(workload)["automountServiceAccountToken"] is False
    rights = pod(workload)["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert rights["runAsUser"] > 0
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(workload)["resources"]["limits"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])
def test_selectors_find_their_pods_and_mounts_their_volumes(workload: dict[str, Any]) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    if workload["kind"] == "Deployment":
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    volumes = {each["name"] for each in pod(workload)["volumes"]}
    assert {each["name"] for each in container(workload)["volumeMounts"]} == volumes
    if workload["kind"] == "Deployment" and workload["metadata"]["name"] != "worker":
        probes = [container(workload)[kind] for kind in ("livenessProbe", "readinessProbe")]
        ports = {each["name"] for each in container(workload)["ports"]}
        for probe in probes:
            asked = probe.get("httpGet") or probe.get("tcpSocket")
            assert asked is None or asked["port"] in ports


def test_services_and_policies_name_pods_and_ports_that_there_are() -> None:
    labels = {each["metadata"]["name"] for each in WORKLOADS}
    ports = {
        each["metadata"]["name"]: {port["name"] for port in container(each).get("ports", [])}
        for each in WORKLOADS
    }
    for service in of_kind("Service"):
        target = service["spec"]["selector"]["app.kubernetes.io/name"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[target]
    text = (FOLDER / "network.yaml").read_text()
    chosen = re.findall(r"app\.kubernetes\.io/name: (\w+)", text)
    chosen += [each for row in re.findall(r"values: \[(.*?)\]", text) for each in row.split(", ")]
    assert set(chosen) == labels


def test_variables_are_settings_and_paths_are_mounted() -> None:
    (config,) = of_kind("ConfigMap")
    fields = {f"HALFLAYER_{name.upper()}" for name in Settings.model_fields}
    ours = {name for name in config["data"] if name.startswith("HALFLAYER_")}
    assert ours <= fields
    # Hosts share no folder here, so what they share must be a store.
    assert config["data"]["HALFLAYER_STORAGE_URL"].startswith("s3://")
    for workload in (named("api"), named("worker"), named("migrate")):
        paths = {each["mountPath"] for each in container(workload)["volumeMounts"]}
        assert config["data"]["HALFLAYER_DATA_DIR"] in paths
        assert {"configMapRef": {"name": "halflayer"}} in container(workload)["envFrom"]
    probed = container(named("api"))["readinessProbe"]["httpGet"]["httpHeaders"][0]["value"]
    assert probed in json.loads(config["data"]["HALFLAYER_ALLOWED_HOSTS"])
    # Links lead to where the Ingress takes them.
    (ingress,) = of_kind("Ingress")
    hosts = {f"https://{rule['host']}" for rule in ingress["spec"]["rules"]}
    assert {config["data"]["HALFLAYER_PUBLIC_URL"]} == hosts


def test_a_worker_has_time_to_save_and_to_copy_its_checkpoint() -> None:
    settings = Settings()
    worker = pod(named("worker"))
    assert worker["terminationGracePeriodSeconds"] > 2 * settings.stop_grace_s + 30
    assert container(named("worker"))["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_manual_says_how_to_make_the_secret() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    for name in (
        "HALFLAYER_DATABASE_URL",
        "HALFLAYER_BROKER_URL",
        "REDISCLI_AUTH",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ):
        assert f"--from-literal={name}=" in manual


def test_a_gpu_worker_without_a_gpu_is_an_error() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert compose["worker-gpu"]["environment"]["HALFLAYER_DEVICE"] == "cuda"
    assert "HALFLAYER_DATABASE_URL" in compose["worker-gpu"]["environment"]
    assert compose["worker-cpu"]["environment"]["HALFLAYER_DEVICE"] == "cpu"
    assert {"name": "HALFLAYER_DEVICE", "value": "cuda"} in container(named("worker"))["env"]
