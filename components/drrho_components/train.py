"""The component `train`: one training run, on the processes of a launcher."""

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    summary: dsl.Output[dsl.Model],
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    lease: str = "",
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
    run: str = "drrho",
    dataset: str = "openmoji",
    dataset_version: int = 0,
    split: str = "train",
    data_fraction: float = 1.0,
    method: str = "drrho",
    reference: str = "",
    initial: str = "",
    architecture: str = "ViT-B-16",
    batch_size: int = 5120,
    accumulate: int = 1,
    gradient_checkpointing: str = "no",
    samples: int = 1_280_000_000,
    learning_rate: float = 3.125e-4,
    weight_decay: float = 0.2,
    beta1: float = 0.9,
    beta2: float = 0.98,
    adam_eps: float = 1e-6,
    warmup_steps: int = 500,
    gradient_clip: float = 0.0,
    temperature: float = -1.0,
    learn_temperature: str = "auto",
    temperature_learning_rate: float = -1.0,
    eps: float = -1.0,
    rho: float = -1.0,
    gamma_min: float = -1.0,
    gamma_epochs: int = -1,
    gamma_schedule: str = "cosine",
    u_home: str = "auto",
    u_path: str = "/dev/shm",
    negatives_kept: float = -1.0,
    distillation_weight: float = -1.0,
    distillation_temperature: float = -1.0,
    filter_ratio: float = -1.0,
    selection_chunks: int = -1,
    augmentation: str = "crop",
    precision: str = "auto",
    seed: int = 0,
    lanes: int = 0,
    workers: int = 0,
    cache_path: str = "",
    cache_gib: int = 50,
    record_weights: str = "yes",
    checkpoint_steps: int = 1000,
    keep_checkpoints: int = 2,
    keep_checkpoint_every: int = 0,
    log_steps: int = 10,
    collective_timeout: int = 300,
    metrics_port: int = 0,
) -> str:
    """Train to the end, from the newest checkpoint where there is one; returns the fingerprint of the finished run."""
    arguments = dict(locals())
    from drrho_clip import training
    from drrho_clip.storage import layout, open_store
    from drrho_components.launch import JobConfig, launcher_for
    from drrho_components.steps import fingerprint, settings, step, write_manifest

    with step("train", arguments):
        opened = open_store(store)
        wanted = settings(training.TrainConfig, arguments)
        start = launcher_for(launcher, settings(JobConfig, arguments)).run
        done = training.train(wanted, opened, launch=start)
        facts = {"run": done.run, "method": done.method, "samples_seen": done.samples_seen, "temperature": done.temperature}
        write_manifest(summary, opened.uri_of(layout.export(done.run)), facts)
        return fingerprint(done)
