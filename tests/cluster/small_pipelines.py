"""Small pipelines that show what the pod runner makes of a compiled one. Their components are compiled from this source."""

from typing import Any

from kfp import dsl, kubernetes

from testcluster.places import PRODUCT


@dsl.component(base_image=PRODUCT, install_kfp_package=False)
def write(text: str, note: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]) -> int:
    """Write a text as an artifact, and its length as a metric and an output."""
    with open(note.path, "w") as file:
        file.write(text)
    metrics.log_metric("length", len(text))
    return len(text)


@dsl.component(base_image=PRODUCT, install_kfp_package=False)
def read(note: dsl.Input[dsl.Artifact], turn: int) -> str:
    """Read the artifact in a turn of a loop."""
    with open(note.path) as file:
        text = file.read()
    print(f"turn {turn}: {text} from {note.uri}")
    return text[turn]


@dsl.component(base_image=PRODUCT, install_kfp_package=False)
def settings(texts: list) -> str:  # type: ignore[type-arg]
    """Show what of the settings for Kubernetes arrived."""
    import os

    free = os.statvfs("/scratch").f_blocks > 0
    print(f"texts={texts} word={os.environ['WORD']} node={os.environ['NODE']} uid={os.getuid()} scratch={free}")
    return "".join(texts)


@dsl.pipeline(name="small")
def small(text: str = "hello", secret: str = "words", cpu: str = "50m") -> None:
    """A loop over an artifact, a condition, and settings for Kubernetes from parameters."""
    written = write(text=text)
    written.set_cpu_request(cpu)
    with dsl.ParallelFor([0, 1]) as turn:
        letters = read(note=written.outputs["note"], turn=turn)
    with dsl.If(written.outputs["Output"] == 5):
        shown = settings(texts=dsl.Collected(letters.output))
        kubernetes.use_secret_as_env(shown, secret, {"word": "WORD"})
        kubernetes.use_field_path_as_env(shown, "NODE", "spec.nodeName")
        kubernetes.empty_dir_mount(shown, "scratch", "/scratch", medium="Memory", size_limit="16Mi")
        kubernetes.add_toleration(shown, key="gpu", operator="Exists", effect="NoSchedule")
        kubernetes.add_pod_label(shown, "team", "clip")
        kubernetes.add_pod_annotation(shown, "sidecar.istio.io/inject", "false")
        kubernetes.add_node_selector(shown, "kubernetes.io/os", "linux")
        shown.set_cpu_request("50m").set_memory_limit("256Mi")
    with dsl.If(written.outputs["Output"] == 6):
        write(text="never")


@dsl.container_component
def deaf() -> dsl.ContainerSpec:
    """A step that does not hear SIGTERM."""
    return dsl.ContainerSpec(image=PRODUCT, command=["sh", "-c", "trap '' TERM; echo ready; sleep 300"])


@dsl.pipeline(name="deaf")
def waits() -> None:
    """One step that waits."""
    task: Any = deaf()
    task.set_caching_options(False)
