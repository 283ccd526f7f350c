"""`kubectl apply -k` of every overlay on a real API server, and what `drrho doctor --cluster` says before and after."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrho_clip.cli import run_app
from drrho_components.kube import connect
from drrho_components.rights import RIGHTS, Asker
from drrho_pipelines.cli import make_full_app
from drrho_pipelines.cluster.rights import rights
from kubeconfig_helpers import write_kubeconfig
from testcluster.access import S3, SECRET, Access

K8S = Path(__file__).resolve().parents[2] / "k8s"
ALL_KINDS = {right.resource for right in RIGHTS}
ROLE = "drrho-clip-launcher"
VERBS = [(right.resource, verb) for right in RIGHTS for verb in right.verbs]


@pytest.fixture
def doctor(
    cluster: Access, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, list[str]]]]:
    """Runs the command: its exit code, and what it says of each thing."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)

    def run(namespace: str, *options: str) -> tuple[int, dict[str, list[str]]]:
        code = run_app(make_full_app(), ["doctor", "--cluster", "--namespace", namespace, *options])
        said: dict[str, list[str]] = {}
        name = ""
        for line in capsys.readouterr().out.splitlines():
            if line.startswith((" ", "\t")):
                said[name][-1] += " " + line.strip()
            else:
                word, name, rest = (part.strip() for part in _split(line))
                said.setdefault(name, []).append(f"{word}: {rest}")
        return code, said

    return run


def _split(line: str) -> tuple[str, str, str]:
    word, rest = line[:7], line[7:]
    name, _, detail = rest.partition("  ")
    return word, name, detail


@pytest.mark.parametrize("overlay", ["standalone", "profile"])
def test_an_overlay_applies(cluster: Access, overlay: str):
    folder = K8S / "overlays" / overlay
    documented = (K8S.parent / "docs/cluster.md").read_text(encoding="utf-8")
    assert f"    kubectl apply --server-side -k k8s/overlays/{overlay}\n" in documented
    namespace = yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"]
    cluster.run_kubectl("create", "namespace", namespace)
    without = f"{folder}-without-monitoring"
    try:
        said = cluster.kubectl("apply", "--server-side", "-k", without)
        assert said.count("serverside-applied") == 5
        assert said == cluster.kubectl("apply", "--server-side", "-k", without), "again is harmless"
        assert cluster.get(namespace, "role", ROLE)["rules"]
        operator_there = "podmonitors" in cluster.kubectl("api-resources", "--output=name")
        whole = cluster.run_kubectl("apply", "--server-side", "--dry-run=server", "-k", str(folder))
        if operator_there:
            assert whole.returncode == 0, whole.stderr
        else:  # all else is still applied
            assert whole.stdout.count("serverside-applied") == 5
            assert 'no matches for kind "PodMonitor"' in whole.stderr
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", without)
        if overlay == "profile":
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_everything_is_there(cluster: Access, installed: str, s3: S3, gpus: Callable[[int], None], doctor: Callable[..., Any]):
    gpus(3)
    cluster.kubectl(
        "-n", installed, "patch", "configmap", "drrho-clip", "--type=merge",
        "--patch=" + json.dumps({"data": {"store_endpoint": s3.endpoint, "store": s3.store_uri}}),
    )  # fmt: skip
    code, said = doctor(installed)
    wrong = {name: lines for name, lines in said.items() if any(line.startswith("WRONG") for line in lines)}
    assert (code, wrong) == (0, {})
    assert said["PyTorchJob"][0].startswith("ok")
    assert said["TrainJob"] == ["ok: trainer.kubeflow.org/v1alpha1, 2.2 or newer: train_launcher=trainjob works"]
    assert said["secret"] == ["ok: 'mlpipeline-minio-artifact' with accesskey, secretkey"]
    assert said["store"][0].startswith(f"ok: {s3.store_uri}: writes, reads, lists and deletes")
    assert said["GPU nodes"] == ["ok: nvidia.com/gpu: 3 on 1 of 1 nodes"]
    assert said["right: pods"] == ["ok: pipeline-runner may get, list, watch"]
    assert "KIA" not in str(said)
    assert not [value for value in s3.server.environment.values() if "KEY" in value and value in str(said)]


def test_nothing_is_there(cluster: Access, namespace: str, doctor: Callable[..., Any]):
    cluster.kubectl("-n", namespace, "delete", "secret", "mlpipeline-minio-artifact")
    code, said = doctor(namespace, "--queue", "gold", "--host", "http://127.0.0.1:1")
    assert code == 2
    assert said["secret"][0].startswith("WRONG: there is no secret 'mlpipeline-minio-artifact'")
    assert f"kubectl create secret generic mlpipeline-minio-artifact -n {namespace}" in said["secret"][0]
    assert "kubectl apply -k" in said["defaults"][0]
    assert said["queue"][0].startswith("WRONG")
    assert "127.0.0.1:1 does not answer" in said["Kubeflow Pipelines"][0]
    assert doctor(namespace, "--secret", "")[1]["secret"][0].startswith("note")
    cluster.kubectl("-n", namespace, "create", "secret", "generic", "half", "--from-literal=accesskey=sesame")
    said = doctor(namespace, "--secret", "half")[1]
    assert said["secret"][0].startswith("WRONG: 'half' has no secretkey")
    assert "sesame" not in str(said)
    endpoint = {"data": {"store_endpoint": "http://user:sesame@s3.example:9000"}, "metadata": {"name": "drrho-clip"}}
    cluster.apply(namespace, {"apiVersion": "v1", "kind": "ConfigMap", **endpoint})
    said = doctor(namespace)[1]
    assert said["defaults"][0].startswith("WRONG: store_endpoint of the ConfigMap 'drrho-clip' holds a user name or password")
    assert "sesame" not in str(said)
    assert doctor("no-such-namespace")[1]["namespace"][0].startswith("WRONG")


def test_an_account_without_the_role(cluster: Access, namespace: str, doctor: Callable[..., Any]):
    cluster.kubectl("-n", namespace, "create", "serviceaccount", "pipeline-runner")
    code, said = doctor(namespace)
    assert code == 2
    assert said["right: pytorchjobs"][0].startswith("WRONG: pipeline-runner may not create, get, delete")
    assert "kubectl apply -k" in said["right: pytorchjobs"][0]


def test_the_role_gives_what_is_listed_and_no_more(cluster: Access, installed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    asking = Asker(connect(), installed, "pipeline-runner")
    cluster.wait_for("the rights", lambda: not asking.missing(RIGHTS[0]))
    every = ("create", "get", "list", "watch", "patch", "update", "delete", "deletecollection")
    for right in RIGHTS:
        given = [verb for verb in every if asking.may(verb, right.resource, right.group)]
        assert given == sorted(right.verbs, key=every.index), right.resource
    assert not asking.may("get", "secrets", name=SECRET)


@pytest.mark.parametrize(("resource", "verb"), VERBS)
def test_a_verb_that_is_taken_away_is_named(
    cluster: Access, installed: str, resource: str, verb: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    role = cluster.get(installed, "role", ROLE)
    rule = next(rule for rule in role["rules"] if rule["resources"] == [resource])
    rule["verbs"].remove(verb)
    if not rule["verbs"]:
        role["rules"].remove(rule)
    cluster.kubectl("-n", installed, "replace", "--filename=-", stdin=json.dumps(role))
    connected = connect(namespace=installed)

    def refused() -> dict[str, str] | None:
        found = {item.name: item.detail for item in rights(connected, "pipeline-runner", ALL_KINDS) if item.ok is not True}
        return found if len(found) == 1 else None

    found = cluster.wait_for("the doctor's word", refused)
    assert found[f"right: {resource}"].startswith(f"pipeline-runner may not {verb}: without it no ")


@contextmanager
def less(cluster: Access, hidden: tuple[str, ...], tmp_path: Path) -> Iterator[str]:
    """A kubeconfig for the same API server less the groups in `hidden`, as where their operators were never installed."""
    token = cluster.kubectl("-n", "default", "create", "token", "default").strip()
    server = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    context = ssl._create_unverified_context()

    class Less(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if any(self.path.startswith((f"/apis/{group}", f"/openapi/v3/apis/{group}")) for group in hidden):
                self.send_error(404)
                return
            there = http.client.HTTPSConnection(server.removeprefix("https://"), context=context)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}
            there.request(self.command, self.path, body, headers)
            answer = there.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Less) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield write_kubeconfig(tmp_path / "less.yaml", f"http://127.0.0.1:{proxy.server_port}")
        proxy.shutdown()


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (("kubeflow.org",), {"PyTorchJob": "note", "TrainJob": "ok"}),
        (("trainer.kubeflow.org",), {"PyTorchJob": "ok", "TrainJob": "note"}),
        (("kubeflow.org", "trainer.kubeflow.org"), {"PyTorchJob": "WRONG", "TrainJob": "WRONG"}),
        (("jobset.x-k8s.io",), {"JobSet": "note"}),
        (("kueue.x-k8s.io",), {"Kueue": "note"}),
    ],
)
def test_an_operator_that_is_not_installed_is_said(
    cluster: Access,
    namespace: str,
    tmp_path: Path,
    doctor: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    hidden: tuple[str, ...],
    expected: dict[str, str],
):
    """The same API server, seen through a proxy that knows no such group: taking real CRDs away would end other tests' jobs."""
    with less(cluster, hidden, tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", config)
        _, said = doctor(namespace)
    assert {name: said[name][0].split(":")[0] for name in expected} == expected
    if "kueue.x-k8s.io" not in hidden:
        assert said["Kueue"][0].startswith("ok")
    # this user may do little: what may not be looked at is a note, not a fault
    assert said["secret"][0].startswith('note: secrets "mlpipeline-minio-artifact" is forbidden: User ')


QUEUES = """
apiVersion: kueue.x-k8s.io/v1beta1
kind: LocalQueue
metadata: {name: gold}
spec: {clusterQueue: nobody-made-it}
"""


def test_a_queue(cluster: Access, installed: str, doctor: Callable[..., Any]):
    cluster.apply(installed, QUEUES)
    assert doctor(installed, "--queue", "godl")[1]["queue"] == [
        f"WRONG: there is no LocalQueue 'godl' in {installed} -> Did you mean gold?"
    ]
    end = time.monotonic() + 60
    while "lets no job start" not in (said := doctor(installed, "--queue", "gold")[1]["queue"][0]):
        assert time.monotonic() < end, said
    assert "See ClusterQueue 'nobody-made-it'" in said


def test_in_a_pod_it_is_the_pods_own_rights(cluster: Access, installed: str):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "doctor"},
        "spec": {
            "serviceAccountName": "pipeline-runner",
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "doctor",
                    "image": cluster.image,
                    "command": ["drrho", "doctor", "--cluster"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    cluster.apply(installed, pod)
    cluster.wait_for_pod(installed, "doctor")
    said = cluster.logs(installed, "doctor")
    assert f"namespace           {installed}" in said or " is forbidden: User " in said
    assert "this pod may create, get, delete" in said
    assert "note   secret" in said, "its account may not read secrets"


def test_the_pipelines_are_compiled_with_the_namespaces_defaults(
    cluster: Access, installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    values = {"image": "registry.example/drrho-clip:7", "store": "s3://ours/clip"}
    cluster.kubectl(
        "-n", installed, "patch", "configmap", "drrho-clip", "--type=merge", "--patch=" + json.dumps({"data": values})
    )
    assert run_app(make_full_app(), ["pipeline", "compile", "--out", str(tmp_path / "dist"), "--namespace", installed]) == 0
    compiled = next(yaml.safe_load_all((tmp_path / "dist/steering.yaml").read_text()))
    assert compiled["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"] == values["store"]
    images = {item["container"]["image"] for item in compiled["deploymentSpec"]["executors"].values()}
    assert images == {values["image"]}
    assert run_app(make_full_app(), ["pipeline", "compile", "--out", str(tmp_path / "none"), "--namespace", "default"]) == 2
    assert "There is no ConfigMap 'drrho-clip' in the namespace 'default'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
