"""The reference of a weak-to-strong study: smaller than the target, and trained on less."""

from __future__ import annotations

from drrho_clip.errors import ConfigError
from drrho_clip.reference.config import ReferenceConfig
from drrho_clip.schema import Config
from drrho_clip.studies.config import StudyConfig
from drrho_clip.training.config import METHOD_SETTINGS, TrainConfig

METHOD = "openclip"
"""What the reference is trained by: CLIP's own loss, as that of the paper was."""


class WeakReference(Config):
    """A training, and the name of both its run and its features."""

    name: str
    architecture: str
    samples: int
    data_fraction: float
    seed: int

    def training(self, train: TrainConfig) -> TrainConfig:
        """The planned training, with what is the reference's own."""
        own = {name: TrainConfig.model_fields[name].default for name in (*METHOD_SETTINGS, "learn_temperature")}
        warmup = min(train.warmup_steps, self.samples // train.batch_size // 5)
        changed = {"run": self.name, "method": METHOD, "reference": "", "record_weights": "no", "warmup_steps": warmup}
        return TrainConfig.parse({**train.model_dump(), **own, **changed, **self.model_dump(exclude={"name"})})

    def features(self, dataset: str) -> ReferenceConfig:
        """The step that computes its features of the dataset."""
        return ReferenceConfig.parse({"dataset": dataset, "model": f"run:{self.name}", "name": self.name})


def weak_reference(name: str, study: StudyConfig, train: TrainConfig) -> WeakReference | None:
    """The reference that the study `name` trains itself, None where it names one that there is.

    ConfigError where it would not be smaller than the target, or not trained on less.
    """
    if study.reference_names:
        return None
    if not study.weak_architecture:
        raise ConfigError(
            "The study has no reference to steer by",
            where="study",
            fix=f"Set weak_architecture to one that is smaller than {train.architecture}, or name features in references.",
        )
    samples = study.weak_samples or train.samples // 2
    if samples >= train.samples:
        raise ConfigError(
            f"A reference that sees {samples:,} samples is not trained on less than the target, which sees {train.samples:,}",
            where="study.weak_samples",
            fix="Lower it.",
        )
    from drrho_clip.models import parameter_count

    weak, strong = parameter_count(study.weak_architecture), parameter_count(train.architecture)
    if weak >= strong:
        raise ConfigError(
            f"The reference is not smaller than the target: {study.weak_architecture} has {weak:,} parameters, "
            f"{train.architecture} {strong:,}",
            where="study.weak_architecture",
            fix="Choose a smaller one.",
        )
    return WeakReference(
        name=f"{name}-reference",
        architecture=study.weak_architecture,
        samples=samples,
        data_fraction=min(study.weak_fraction, train.data_fraction),
        seed=study.seed_numbers[0],
    )
