"""k8s/: what is applied fits the code, and every overlay can be built; tests/cluster/test_install.py applies them."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.observe.push import GATEWAY
from drrho_components import IMAGE
from drrho_pipelines.cluster.checks import ACCOUNTS
from drrho_pipelines.cluster.connection import CONFIG_MAP
from drrho_pipelines.cluster.rights import RIGHTS
from drrho_pipelines.parameters import SHARED
from drrho_pipelines.pods import KEYS

ROOT = Path(__file__).resolve().parents[1]
BASE, OVERLAYS = ROOT / "k8s/base", ROOT / "k8s/overlays"
OPERATOR_KINDS = {"PodMonitor", "PrometheusRule"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def built(overlay: str) -> dict[str, Any]:
    """The objects of an overlay by kind, as kustomize makes them."""
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not (kubectl or kustomize):
        pytest.skip("neither kubectl nor kustomize is installed; tests/cluster/test_install.py brings its own")
    command = [kustomize, "build"] if kustomize else [str(kubectl), "kustomize"]
    done = subprocess.run([*command, OVERLAYS / overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {f"{item['kind']} {item['metadata']['name']}": item for item in yaml.safe_load_all(done.stdout)}


def test_the_role_is_the_list_that_the_doctor_asks_for():
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
    assert secret["stringData"] == dict.fromkeys(KEYS, "")
    used = [name for path in ROOT.glob("k8s/**/kustomization.yaml") for name in load(path).get("resources", [])]
    assert not [name for name in used if "secret" in name]


def test_training_pods_reach_each_other_and_what_they_need():
    spec = load(BASE / "network-policy.yaml")["spec"]
    monitored = load(ROOT / "k8s/monitoring/pod-monitor.yaml")["spec"]
    generator = runpy.run_path(str(ROOT / "tools/monitoring.py"))
    pods = {"matchLabels": generator["APP"]}
    assert spec["podSelector"] == monitored["selector"] == pods
    among, prometheus = spec["ingress"]
    assert among == {"from": [{"podSelector": pods}]}
    assert prometheus["ports"] == [{"protocol": "TCP", "port": monitored["podMetricsEndpoints"][0]["port"]}]
    to_each_other, *rest = spec["egress"]
    assert to_each_other == {"to": [{"podSelector": pods}]}
    open_ports = {(port["protocol"], port["port"]) for rule in rest for port in rule["ports"]}
    assert open_ports >= {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 6443), ("TCP", 9000), ("TCP", 8333)}


@pytest.mark.parametrize(("overlay", "account"), list(zip(("standalone", "profile"), ACCOUNTS, strict=True)))
def test_an_overlay_gives_the_rights_to_the_account_that_runs_have(overlay: str, account: str):
    objects = built(overlay)
    namespace = load(OVERLAYS / overlay / "kustomization.yaml")["namespace"]
    assert {item["metadata"]["namespace"] for item in objects.values()} == {namespace}
    subjects = objects["RoleBinding drrho-clip-launcher"]["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    assert objects.keys() >= {
        "Role drrho-clip-launcher", f"ConfigMap {CONFIG_MAP}", "NetworkPolicy drrho-clip", "PodMonitor drrho-clip",
        "PrometheusRule drrho-clip", "ConfigMap drrho-clip-dashboards",
    }  # fmt: skip


@pytest.mark.parametrize("overlay", ["standalone", "profile"])
def test_a_cluster_without_the_prometheus_operator_gets_all_but_its_kinds(overlay: str):
    whole, without = built(overlay), built(f"{overlay}-without-monitoring")
    assert {item["kind"] for item in whole.values()} - {item["kind"] for item in without.values()} == OPERATOR_KINDS
    assert without == {name: item for name, item in whole.items() if item["kind"] not in OPERATOR_KINDS}
