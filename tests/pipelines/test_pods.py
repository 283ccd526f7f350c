"""How the compiled pipelines say what a pod must be: the server reads nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from drrho_pipelines.compile import compile_pipelines, pipelines

GPU_STEPS = {"reference", "train", "evaluate", "promote", "cell"}
SMALL_STEPS = {"begin", "arrivals", "plan", "split", "plan-study"}
NOT_CACHED = {"begin", "ingest", "arrivals", "plan", "reference", "evaluate", "promote", "plan-study", "cell", "study-report"}
"""Those that look at something whose name may stay when it changes: data, a file of weights or class names, the promoted run."""
CHANNEL = re.compile(r"\{\{\$\.inputs\.parameters\['(.*?)'\]\}\}")


class Task(NamedTuple):
    """One task, where it stands, and what its pod is to be."""

    pipeline: str
    name: str
    step: str  # name of the component
    spec: dict[str, Any]
    dag: dict[str, Any]  # the component that it stands in
    container: dict[str, Any]
    pod: dict[str, Any]

    def parameter(self, given: dict[str, Any]) -> str:
        """The pipeline's parameter that a field of the pod is bound to, where the surrounding component really has it."""
        (kind,) = given
        assert kind == "componentInputParameter", given
        assert given[kind] in self.dag["inputDefinitions"]["parameters"]
        return str(given[kind]).removeprefix("pipelinechannel--")

    def channel(self, text: str) -> str:
        """The pipeline's parameter that a resource is bound to, followed through the task's inputs."""
        (name,) = CHANNEL.findall(text)
        return self.parameter(self.spec["inputs"]["parameters"][name])


def dags(specification: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specification["root"]
    yield from (component for component in specification["components"].values() if "dag" in component)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    files = compile_pipelines(tmp_path_factory.mktemp("dist"))
    return {file.stem: list(yaml.safe_load_all(file.read_text())) for file in files}


@pytest.fixture(scope="module")
def tasks(documents: dict[str, list[Any]]) -> list[Task]:
    found = []
    for pipeline, (specification, platform) in documents.items():
        executors = specification["deploymentSpec"]["executors"]
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(pods) == set(executors)
        for dag in dags(specification):
            for name, spec in dag["dag"]["tasks"].items():
                component = specification["components"][spec["componentRef"]["name"]]
                if "executorLabel" in component:
                    label = component["executorLabel"]
                    step = re.sub(r"^exec-|-\d+$", "", label)
                    found.append(Task(pipeline, name, step, spec, dag, executors[label]["container"], pods[label]))
    assert {task.step for task in found} >= GPU_STEPS | SMALL_STEPS | NOT_CACHED
    return found


@pytest.mark.parametrize("name", pipelines())
def test_every_value_comes_from_the_pipeline_s_own_parameters(name: str, documents: dict[str, list[Any]]):
    """A loop or a condition has only what is handed into it; the server fails the task that asks for more."""
    specification = documents[name][0]
    for dag in dags(specification):
        declared = set(dag.get("inputDefinitions", {}).get("parameters", {}))
        for task, spec in dag["dag"]["tasks"].items():
            given = spec.get("inputs", {}).get("parameters", {})
            wanted = {value["componentInputParameter"] for value in given.values() if "componentInputParameter" in value}
            assert wanted <= declared, task
            component = specification["components"][spec["componentRef"]["name"]]
            if "dag" in component:
                inner = set(component["inputDefinitions"]["parameters"])
                items = {spec["parameterIterator"]["itemInput"]} if "parameterIterator" in spec else set()
                assert inner - items == set(given) - items, task


def test_defaults_of_the_namespace_come_from_its_config_map_which_may_be_absent(tasks: list[Task]):
    for task in tasks:
        (defaults,) = task.pod["configMapAsEnv"]
        assert defaults["configMapNameParameter"]["runtimeValue"]["constant"] == "drrho-clip"
        assert defaults["optional"] is True
        assert {key["configMapKey"]: key["envVar"] for key in defaults["keyToEnv"]} == {
            "store_endpoint": "AWS_ENDPOINT_URL",
            "pushgateway": "PROMETHEUS_PUSHGATEWAY",
        }


def test_credentials_come_from_a_secret_that_is_named_and_may_be_absent(tasks: list[Task]):
    for task in tasks:
        (secret,) = task.pod["secretAsEnv"]
        assert task.parameter(secret["secretNameParameter"]) == "store_secret"
        assert secret["optional"] is True
        assert {key["envVar"] for key in secret["keyToEnv"]} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_nodes_are_chosen_by_parameters_apart_for_steps_that_may_use_gpus(tasks: list[Task]):
    for task in tasks:
        prefix = "gpu_" if task.step in GPU_STEPS else ""
        assert task.parameter(task.pod["nodeSelector"]["nodeSelectorJson"]) == f"{prefix}node_selector"
        (toleration,) = task.pod["tolerations"]
        assert task.parameter(toleration["tolerationJson"]) == f"{prefix}tolerations"
        (secret,) = task.pod["imagePullSecret"]
        assert task.parameter(secret["secretNameParameter"]) == "image_pull_secret"


def test_resources_are_parameters_as_text_and_small_steps_ask_for_little(tasks: list[Task]):
    for task in tasks:
        resources = task.container["resources"]
        if task.step in SMALL_STEPS:
            assert (resources["resourceCpuRequest"], resources["resourceMemoryLimit"]) == ("100m", "1Gi")
            continue
        prefix = {"ingest": "data", "cell": "train", "study-report": "report"}.get(task.step, task.step)
        assert task.channel(resources["resourceCpuRequest"]) == f"{prefix}_cpu"
        assert task.channel(resources["resourceMemoryLimit"]) == f"{prefix}_memory"
        if task.step in GPU_STEPS:
            assert task.channel(resources["accelerator"]["resourceType"]) == "gpu_resource"
            assert task.channel(resources["accelerator"]["resourceCount"]) == f"{prefix}_gpus"
        else:
            assert "accelerator" not in resources


def test_pods_are_labelled_hardened_and_without_a_sidecar(tasks: list[Task]):
    for task in tasks:
        assert task.pod["podMetadata"]["labels"] == {"app.kubernetes.io/name": "drrho-clip"}
        assert task.pod["podMetadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
        assert task.pod["securityContext"] == {"runAsNonRoot": True}


def test_data_workers_have_shared_memory(tasks: list[Task]):
    for task in tasks:
        expected = (
            [{"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory"}]
            if task.step in ("train", "cell")
            else []
        )
        assert task.pod.get("emptyDirMounts", []) == expected


def test_steps_are_tried_again_and_those_of_a_known_length_end(tasks: list[Task]):
    for task in tasks:
        policy = task.spec["retryPolicy"]
        assert (policy["maxRetryCount"], policy["backoffDuration"], policy["backoffFactor"]) == (2, "10s", 2.0)
        of_the_data = dict.fromkeys(("ingest", "reference", "train", "cell"))
        seconds = {"evaluate": "86400", "promote": "86400", **of_the_data}.get(task.step, "3600")
        assert task.pod.get("activeDeadlineSeconds") == seconds


def test_steps_that_look_outside_are_never_cached(tasks: list[Task]):
    cached = {task.step for task in tasks if task.spec["cachingOptions"].get("enableCache")}
    assert cached == {task.step for task in tasks} - NOT_CACHED


def test_defaults_run_on_a_node_without_gpus(documents: dict[str, list[Any]]):
    for specification, _ in documents.values():
        defaults = {key: value["defaultValue"] for key, value in specification["root"]["inputDefinitions"]["parameters"].items()}
        assert {defaults[key] for key in defaults if key.endswith("_gpus")} == {"0"}
        assert [defaults[key] for key in ("node_selector", "gpu_node_selector", "tolerations", "gpu_tolerations")] == [
            {},
            {},
            [],
            [],
        ]
        assert (defaults["data_groups"], defaults.get("reference_workers", 1), defaults["image_pull_secret"]) == (1, 1, "")


@pytest.mark.parametrize(
    ("count", "after", "plan", "number"),
    [("data_groups", [], "split", "group"), ("reference_workers", ["ingest"], "plan", "worker")],
)
def test_one_pod_costs_no_more_than_looking_whether_there_are_several(
    count: str, after: list[str], plan: str, number: str, documents: dict[str, list[Any]]
):
    """The rest stands behind a condition, and nothing waits for it."""
    specification = documents["steering"][0]
    top = specification["root"]["dag"]["tasks"]
    conditions = {name: task for name, task in top.items() if "triggerPolicy" in task}
    assert set(top) == {"ingest", "reference", "train", "evaluate", "report", *conditions}
    ((name, condition),) = ((n, t) for n, t in conditions.items() if f"--{count}']) > 1" in t["triggerPolicy"]["condition"])
    assert condition.get("dependentTasks", []) == after
    assert not any(name in task.get("dependentTasks", []) for task in top.values())
    inside = specification["components"][f"comp-{name}"]["dag"]["tasks"]
    ((loop_name, loop),) = ((name, task) for name, task in inside.items() if "parameterIterator" in task)
    assert loop["dependentTasks"] == [plan]
    (worker,) = specification["components"][f"comp-{loop_name}"]["dag"]["tasks"].values()
    given = worker["inputs"]["parameters"]
    assert given[number] == {"componentInputParameter": loop["parameterIterator"]["itemInput"]}
    assert given[f"{number}s"] == {"componentInputParameter": f"pipelinechannel--{count}"}


def test_a_condition_looks_at_an_output_that_the_local_runner_finds(documents: dict[str, list[Any]]):
    """kfp.local knows no other output than one called Output; of others it says that they are not as wished, and goes on."""
    conditions = {
        task["triggerPolicy"]["condition"]
        for specification, _ in documents.values()
        for dag in dags(specification)
        for task in dag["dag"]["tasks"].values()
        if "triggerPolicy" in task
    }
    assert conditions == {
        "int(inputs.parameter_values['pipelinechannel--data_groups']) > 1",
        "int(inputs.parameter_values['pipelinechannel--reference_workers']) > 1",
        "inputs.parameter_values['pipelinechannel--begin-Output'] == 'yes'",
        "inputs.parameter_values['pipelinechannel--arrivals-Output'] == 'yes'",
    }


def test_the_lease_is_the_server_s_run_so_that_a_step_tried_again_has_it_still(documents: dict[str, list[Any]]):
    tasks = documents["continual"][0]["root"]["dag"]["tasks"]
    assert tasks["begin"]["inputs"]["parameters"]["holder"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
    kept = {task for task, step in _continual(documents).items() if "lease" in step.get("inputs", {}).get("parameters", {})}
    assert kept == {"ingest", "arrivals", "reference", "train", "evaluate", "report", "promote"}


def _continual(documents: dict[str, list[Any]]) -> dict[str, Any]:
    """All steps of the pipeline that stand in one of its conditions, by their task's name."""
    return {name: task for dag in dags(documents["continual"][0]) for name, task in dag["dag"]["tasks"].items()}
