"""k8s/: what the files say fits the code and each other; tests/cluster/test_install.py applies them with `kubectl apply -k`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.observe.push import GATEWAY
from drrho_components import IMAGE
from drrho_components.rights import RIGHTS
from drrho_components.steps import SECRET_KEYS
from drrho_pipelines.cluster.checks import ACCOUNTS
from drrho_pipelines.parameters import SHARED
from drrho_pipelines.pods import CONFIG_MAP

K8S = Path(__file__).resolve().parents[1] / "k8s"
BASE, OVERLAYS = K8S / "base", K8S / "overlays"
FOLDERS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def kustomization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = load(folder / "kustomization.yaml")
    return found


def files(folder: Path) -> list[str]:
    """Names of all that a folder's kustomization takes from the folder itself."""
    found = kustomization(folder)
    named = [*found.get("resources", []), *(name for item in found.get("configMapGenerator", []) for name in item["files"])]
    return [name for name in named if not name.startswith("../")]


def test_the_role_gives_the_rights_that_the_code_asks_for_and_no_more():
    rules = load(BASE / "role.yaml")["rules"]
    assert [(rule["apiGroups"], rule["resources"], tuple(rule["verbs"])) for rule in rules] == [
        ([right.group], [right.resource], right.verbs) for right in RIGHTS
    ]


def test_the_defaults_are_those_of_the_pipelines():
    found = load(BASE / "config-map.yaml")
    assert found["metadata"]["name"] == CONFIG_MAP
    assert found["data"] == {"store_endpoint": "http://seaweedfs.kubeflow:9000", "store": SHARED["store"], "image": IMAGE}
    assert GATEWAY == "PROMETHEUS_PUSHGATEWAY"


def test_the_secret_is_an_example_that_is_never_applied():
    secret = load(BASE / "secret.example.yaml")
    assert secret["stringData"] == dict.fromkeys(SECRET_KEYS, "")
    assert not [name for folder in FOLDERS for name in files(folder) if "secret" in name]


def test_training_pods_reach_each_other_and_what_they_need():
    spec = load(BASE / "network-policy.yaml")["spec"]
    monitored = load(K8S / "monitoring/pod-monitor.yaml")["spec"]
    generator = runpy.run_path(str(K8S.parent / "tools/monitoring.py"))
    pods = {"matchLabels": generator["APP"]}
    assert spec["podSelector"] == monitored["selector"] == pods
    among, prometheus = spec["ingress"]
    assert among == {"from": [{"podSelector": pods}]}
    assert prometheus["ports"] == [{"protocol": "TCP", "port": monitored["podMetricsEndpoints"][0]["port"]}]
    to_each_other, *rest = spec["egress"]
    assert to_each_other == {"to": [{"podSelector": pods}]}
    open_ports = {(port["protocol"], port["port"]) for rule in rest for port in rule["ports"]}
    assert open_ports >= {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 6443), ("TCP", 9000), ("TCP", 8333)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(K8S)))
def test_a_kustomization_names_what_there_is_and_forgets_nothing(folder: Path):
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".yaml", ".json")}
    assert set(files(folder)) == there - {"kustomization.yaml", "secret.example.yaml"}
    found = kustomization(folder)
    for key, kind in (("resources", "Kustomization"), ("components", "Component")):
        for name in found.get(key, []):
            assert not name.startswith("../") or kustomization(folder / name)["kind"] == kind


@pytest.mark.parametrize(("overlay", "account"), list(zip(("standalone", "profile"), ACCOUNTS, strict=True)))
def test_an_overlay_gives_the_rights_to_the_account_that_runs_have(overlay: str, account: str):
    found = kustomization(OVERLAYS / overlay)
    assert found["namespace"]
    assert (found["resources"], found["components"]) == (["../../base"], ["../../monitoring"])
    (patch,) = found["patches"]
    assert patch["target"] == {"kind": "RoleBinding"}
    assert yaml.safe_load(patch["patch"]) == [{"op": "replace", "path": "/subjects/0/name", "value": account}]
    (replacement,) = found["replacements"]
    assert replacement["source"] == {"kind": "RoleBinding", "fieldPath": "metadata.namespace"}
    assert replacement["targets"] == [{"select": {"kind": "RoleBinding"}, "fieldPaths": ["subjects.0.namespace"]}]
    binding = load(BASE / "role-binding.yaml")
    (subject,) = binding["subjects"]
    assert (subject["kind"], *sorted(subject.keys() & {"name", "namespace"})) == ("ServiceAccount", "name", "namespace")
    assert binding["roleRef"]["name"] == load(BASE / "role.yaml")["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["standalone", "profile"])
def test_a_cluster_without_the_prometheus_operator_gets_all_but_its_kinds(overlay: str):
    found = kustomization(OVERLAYS / f"{overlay}-without-monitoring")
    assert found["resources"] == [f"../{overlay}"]
    monitoring = [load(K8S / "monitoring" / name) for name in kustomization(K8S / "monitoring")["resources"]]
    of_the_operator = {item["kind"] for item in monitoring if item["apiVersion"].startswith("monitoring.coreos.com/")}
    assert {patch["target"]["kind"] for patch in found["patches"]} == of_the_operator
    assert all(yaml.safe_load(patch["patch"])["$patch"] == "delete" for patch in found["patches"])
