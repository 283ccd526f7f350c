"""The component `cell`: one run of a study, trained on the processes of a launcher and evaluated."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def cell(
    metrics: dsl.Output[dsl.Metrics],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    cell: str = "",
    launcher: str = "local",
    nodes: int = 1,
    processes: int = 1,
    elastic: str = "no",
    node_cpu: str = "1",
    node_memory: str = "4Gi",
    node_gpus: str = "0",
    gpu_resource: str = "nvidia.com/gpu",
    shm: str = "",
    gpu_node_selector: dict[str, str] = {},  # noqa: B006 (kfp reads it, nobody changes it)
    gpu_tolerations: list[dict[str, str]] = [],  # noqa: B006
    priority_class: str = "",
    queue: str = "",
    service_account: str = "",
    store_secret: str = "",
    image_pull_secret: str = "",
    labels: str = "",
    annotations: str = '{"sidecar.istio.io/inject": "false"}',
    namespace: str = "",
    image: str = "",
    runtime: str = "torch-distributed",
    start_timeout: int = 1800,
    launcher_timeout: int = 300,
    deadline: int = 0,
    restarts: int = 3,
) -> str:
    """Do what is not done of one run (`cell` is STUDY/RUN) and record its scores; without one there is nothing to do."""
    arguments = dict(locals())
    from drrho_clip.storage import open_store
    from drrho_clip.studies.cell import run_cell
    from drrho_clip.studies.plan import load_plan
    from drrho_components.launch import JobConfig, launcher_for
    from drrho_components.steps import settings, skipped, step

    with step("cell", arguments):
        if not cell:
            skipped("the study has no reference of its own to train")
            return cell
        opened = open_store(store)
        start = launcher_for(launcher, settings(JobConfig, arguments)).run
        study, _, run = cell.partition("/")
        found = run_cell(load_plan(study, opened), run, opened, launch=start)
        for name, value in found.scalars().items():
            metrics.log_metric(name, value)
        return cell
