"""The work of the step `evaluate`: features of the samples, then retrieval and zero-shot classification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drrho_clip.data.features import FeatureReader
from drrho_clip.data.pairs import image_and_caption
from drrho_clip.data.reader import Sample, SampleReader
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.errors import ModelError
from drrho_clip.evaluation.classes import ClassList, class_list
from drrho_clip.evaluation.results import Evaluation, ZeroShot
from drrho_clip.evaluation.retrieval import Pairs, evaluate_retrieval
from drrho_clip.evaluation.step import Task
from drrho_clip.evaluation.zero_shot import build_classifier, classify, label
from drrho_clip.models import Encoder, encode_pairs, load_checkpoint, load_model, refuse_mix
from drrho_clip.observe import progress

if TYPE_CHECKING:
    from drrho_clip.storage import Store


@dataclass
class _Facts:
    """What is noted of the samples while they pass by."""

    captions: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    classes: list[object] = field(default_factory=list)
    exchanged: list[bool] = field(default_factory=list)

    def note(self, sample: Sample) -> Sample:
        self.captions.append(sample.caption)
        self.images.append(str(sample.meta.get("sha256") or sample.index))
        self.classes.append(sample.meta.get("class"))
        self.exchanged.append(bool(sample.meta.get("exchanged", False)))
        return sample


class _Subject:
    """The model that is evaluated: loaded at once for a run or a spec, only when text is encoded for a reference."""

    def __init__(self, task: Task, store: Store) -> None:
        self.task, self.store = task, store
        config = task.config
        if config.kind == "reference":
            self.encoder: Encoder | None = None
            identity = load_reference_manifest(store, config.dataset, config.name).identity
            self.record: dict[str, Any] = identity.model_dump()
        elif task.checkpoint is not None:
            self.encoder = load_checkpoint(task.checkpoint, store, precision=config.precision)
            self.record = self.encoder.record()
        else:
            self.encoder = load_model(config.model or f"run:{config.run}", store, precision=config.precision)
            self.record = self.encoder.record()

    def features(self, samples: Iterator[Sample]) -> Tensor:
        """Float32 [n, 2, dim] of `samples`, which are those of the task's shards in order."""
        config = self.task.config
        if self.encoder is not None:
            parts = encode_pairs(
                self.encoder, samples, image_and_caption, batch_size=config.batch_size, threads=config.decode_threads
            )
            return torch.cat(list(parts))
        reader = FeatureReader(self.store, config.dataset, config.name, self.task.manifest)
        index = np.array([sample.index for sample in samples], dtype=np.int64)
        return torch.nn.functional.normalize(reader.get(index).float(), dim=-1)

    def text_encoder(self) -> Encoder:
        """The model, which for a reference has to be the one that its features come from."""
        if self.encoder is None:
            identity = load_reference_manifest(self.store, self.task.config.dataset, self.task.config.name).identity
            encoder = load_model(identity.spec, self.store, precision="bf16" if identity.precision == "bf16" else "fp32")
            what = f"Reference '{self.task.config.name}'"
            refuse_mix(identity, type(identity).parse(encoder.record()), what=what, fix="Compute the reference again.")
            self.encoder = encoder
        return self.encoder


def compute(task: Task, store: Store) -> Evaluation:
    """Read the task's shards once, and score."""
    config = task.config
    classes = class_list(config.classnames, task.manifest)
    subject = _Subject(task, store)
    facts = _Facts()
    total = sum(shard.count for shard in task.shards)
    reader = SampleReader(store, task.manifest)
    stream = (facts.note(sample) for _, sample in reader.in_order(task.shards))
    features = subject.features(progress(stream, what=f"evaluate {config.name}", total=total, unit="samples"))
    if not bool(features.isfinite().all()):
        raise ModelError(
            "The model gives features that are not finite", where=config.name, fix="Train it again, or check its weights."
        )
    query = torch.tensor([shard.split == config.split for shard in task.shards for _ in range(shard.count)])
    pairs = Pairs(features, facts.images, facts.captions, query, ~torch.tensor(facts.exchanged))
    zero_shot = _zero_shot(subject, classes, features, facts, query)
    return Evaluation(
        kind=config.kind,
        name=config.name,
        model=subject.record,
        dataset=config.dataset,
        dataset_version=task.manifest.version,
        split=config.split,
        candidates=config.candidates,
        shards_id=task.shards_id,
        classes_id=task.classes_id,
        samples=int(query.sum()),
        retrieval=evaluate_retrieval(pairs),
        zero_shot=zero_shot if isinstance(zero_shot, ZeroShot) else None,
        zero_shot_absent=zero_shot if isinstance(zero_shot, str) else "",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _zero_shot(subject: _Subject, classes: ClassList | str, features: Tensor, facts: _Facts, query: Tensor) -> ZeroShot | str:
    """Classify every picture of the split once; the reason where that cannot be done."""
    if isinstance(classes, str):
        return classes
    if len(classes.classnames) < 2:
        return f"one class only ('{classes.classnames[0]}'): every answer would be right"
    rows = list({facts.images[row]: row for row in reversed(query.nonzero().flatten().tolist())}.values())
    labels = label([facts.classes[row] for row in rows], classes.classnames)
    if not labels.rows:
        return "no sample of the split has a class of the list"
    return classify(features[rows, 0], build_classifier(subject.text_encoder(), classes), labels, classes)
