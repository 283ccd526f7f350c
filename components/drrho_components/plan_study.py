"""The component `plan_study`: what the runs of a study have in common, and which they are."""

from typing import NamedTuple

from kfp import dsl

from drrho_components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_study(
    store: str,
    store_endpoint: str = "",
    depends_on: str = "",
    dataset: str = "openmoji",
    kind: str = "comparison",
    reference: str = "",
    name: str = "",
    methods: str = "openclip,fastclip,drrho",
    baseline: str = "fastclip",
    references: str = "",
    seeds: str = "0,1,2",
    settings: str = "",
    fractions: str = "0.25,0.5,0.75,1",
    architectures: str = "",
    budgets: str = "",
    irreducible: bool = False,
    predict: str = "",
    weak_architecture: str = "",
    weak_samples: int = 0,
    weak_fraction: float = 0.5,
    measure: str = "mean_recall_at_5",
    curve_points: int = 4,
    train_split: str = "train",
    train_data_fraction: float = 1.0,
    train_initial: str = "",
    train_architecture: str = "ViT-B-16",
    train_batch_size: int = 5120,
    train_accumulate: int = 1,
    train_gradient_checkpointing: str = "no",
    train_samples: int = 1_280_000_000,
    train_learning_rate: float = 3.125e-4,
    train_weight_decay: float = 0.2,
    train_beta1: float = 0.9,
    train_beta2: float = 0.98,
    train_adam_eps: float = 1e-6,
    train_warmup_steps: int = 500,
    train_gradient_clip: float = 0.0,
    train_temperature: float = -1.0,
    train_learn_temperature: str = "auto",
    train_temperature_learning_rate: float = -1.0,
    train_eps: float = -1.0,
    train_rho: float = -1.0,
    train_gamma_min: float = -1.0,
    train_gamma_epochs: int = -1,
    train_gamma_schedule: str = "cosine",
    train_u_home: str = "auto",
    train_u_path: str = "/dev/shm",
    train_negatives_kept: float = -1.0,
    train_distillation_weight: float = -1.0,
    train_distillation_temperature: float = -1.0,
    train_filter_ratio: float = -1.0,
    train_selection_chunks: int = -1,
    train_augmentation: str = "crop",
    train_precision: str = "auto",
    train_lanes: int = 0,
    train_workers: int = 0,
    train_cache_path: str = "",
    train_cache_gib: int = 50,
    train_record_weights: str = "yes",
    train_checkpoint_steps: int = 1000,
    train_keep_checkpoints: int = 2,
    train_keep_checkpoint_every: int = 0,
    train_log_steps: int = 10,
    train_collective_timeout: int = 300,
    train_metrics_port: int = 0,
    evaluate_split: str = "heldout",
    evaluate_candidates: str = "split",
    evaluate_classnames: str = "dataset",
    evaluate_batch_size: int = 256,
    evaluate_precision: str = "fp32",
    evaluate_decode_threads: int = 0,
) -> NamedTuple("Outputs", [("Output", list), ("name", str), ("reference", str), ("fingerprint", str)]):  # type: ignore[valid-type]
    """Publish the plan of a study, or find it: its cells as STUDY/RUN, its name, the cell that is its reference.

    What a loop goes over is called Output: under kfp.local it finds no output of another name. And there it hands the item to
    its steps in place of every other output, so that the item says all.
    """
    arguments = dict(locals())
    from drrho_clip.evaluation import EvaluateConfig
    from drrho_clip.storage import open_store
    from drrho_clip.studies import StudyConfig
    from drrho_clip.studies.plan import plan_study as publish
    from drrho_clip.training import TrainConfig
    from drrho_components.steps import fingerprint, step, under
    from drrho_components.steps import settings as parse

    with step("plan-study", arguments):
        shared = {"dataset": dataset, "run": "study"}
        # each run has its own method and, where the study trains it, its own reference
        features = reference or references.split(",")[0] or ("its-own" if kind == "weak_to_strong" else "")
        train = {**under("train", arguments), **shared, "method": "openclip", "reference": features}
        plan = publish(
            kind,
            parse(StudyConfig, arguments),
            parse(TrainConfig, train),
            parse(EvaluateConfig, {**under("evaluate", arguments), **shared}),
            open_store(store),
        )
        cells = [f"{plan.name}/{cell.run}" for cell in plan.cells]
        return cells, plan.name, f"{plan.name}/{plan.weak.name}" if plan.weak else "", fingerprint(plan)
