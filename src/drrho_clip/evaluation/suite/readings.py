"""A dataset while it is read: what is noted of its samples as they pass by, and the scores of a model on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drrho_clip.errors import DataError
from drrho_clip.evaluation.config import RECALL_KS, TOP_KS
from drrho_clip.evaluation.retrieval import Pairs, evaluate_retrieval
from drrho_clip.evaluation.suite.associations import Associations, Picture
from drrho_clip.evaluation.suite.classifier import cached_classifier
from drrho_clip.evaluation.suite.config import SuiteTask
from drrho_clip.evaluation.suite.metrics import group_shares, jaccard, macro_f1, mean_per_class_recall, rank_classes, top_k
from drrho_clip.evaluation.suite.published import Published, PublishedSample
from drrho_clip.evaluation.suite.results import GroupScore
from drrho_clip.models import encode_texts

if TYPE_CHECKING:
    from drrho_clip.models import Encoder
    from drrho_clip.storage import Store

Item = PublishedSample | Picture

CLASSIFICATION = (
    "top_k: share of the pictures whose class is among the k most similar; a class is the mean of the text features of its "
    "prompts (open_clip.build_zero_shot_classifier). mean_per_class_recall, macro_f1: plain means over the classes that have "
    "pictures. worst_group_*: the smallest share of any group. Of classes as similar the one of the smaller number is first."
)
RETRIEVAL = (
    "text_recall_at_k: share of the pictures with any of their captions among the k most similar; image_recall_at_k: share of "
    "the captions whose picture is among the k most similar; mean_recall_at_k: mean of both. Equal captions count as one, which "
    "has several pictures. Candidates as similar as the best of one's own are ranked before it."
)
ASSOCIATION = "jaccard: mean over the cues of |chosen and associated| / |chosen or associated|, as many chosen as are associated"


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of one model on one dataset."""

    scores: dict[str, float]
    samples: int
    definition: str
    classes: int = 0
    captions: int = 0
    groups: dict[str, GroupScore] = field(default_factory=dict)


class SampleReading:
    """A published dataset for classification or retrieval, and those of its facts that `tasks` need."""

    def __init__(self, dataset: Published, tasks: Sequence[SuiteTask], store: Store) -> None:
        self.dataset, self.tasks, self.store = dataset, tasks, store
        self.labelled = tasks[0].kind == "classification"  # of one dataset all are
        self.classes = dataset.classes(duplicates=True) if self.labelled else None  # looked at when the dataset was opened
        self.count = 0
        self.labels: list[int] = []
        self.captions: list[list[str]] = []
        self.groups: dict[str, list[str]] = {task.group: [] for task in tasks if task.group}

    def items(self) -> Iterator[PublishedSample]:
        """Yield every sample once, in order."""
        for sample in self.dataset.samples():
            self.count += 1
            if self.classes is not None:
                self.labels.append(sample.label(len(self.classes.classnames)))
            else:
                self.captions.append(sample.captions())
            for name, values in self.groups.items():
                values.append(sample.group(name))
            yield sample

    def check_sizes(self) -> None:
        """Raise DataError where the dataset, now read, has another size than a task says."""
        for task in self.tasks:
            if self.count == 0 or task.size not in (None, self.count):
                raise DataError(
                    f"Task '{task.name}' is of {task.size or 'some'} samples, {self.count} are there",
                    where=self.dataset.uri,
                    fix="Fetch the dataset again, or correct the task's `size`.",
                )

    def score(self, task: SuiteTask, features: Tensor, encoder: Encoder) -> Measured:
        """Score a model by the features [n, dim] of all pictures."""
        return self._classification(task, features, encoder) if self.labelled else self._retrieval(features, encoder)

    def _classification(self, task: SuiteTask, features: Tensor, encoder: Encoder) -> Measured:
        assert self.classes is not None
        labels = torch.tensor(self.labels)
        ranks, predictions = rank_classes(features, cached_classifier(encoder, self.classes, self.store), labels)
        classes = len(self.classes.classnames)
        ks = [k for k in TOP_KS if k < classes]
        scores = {f"top_{k}": top_k(ranks, k) for k in ks}
        if ks:
            scores |= {
                "mean_per_class_recall": mean_per_class_recall(predictions, labels),
                "macro_f1": macro_f1(predictions, labels),
            }
        groups: dict[str, GroupScore] = {}
        for k in ks if task.group else ():
            shares = group_shares(ranks <= k, self.groups[task.group])
            counted = {name: share for name, share in shares.items() if name not in task.ignore_groups}
            if not counted:
                raise DataError(f"Task '{task.name}' ignores every group", where=self.dataset.uri, fix="Correct `ignore_groups`.")
            scores[f"worst_group_top_{k}"] = min(share for _, share in counted.values())
            if task.metric == f"worst_group_top_{k}" or not groups:
                groups = {name: GroupScore(samples=samples, value=share) for name, (samples, share) in counted.items()}
        return Measured(scores, self.count, CLASSIFICATION, classes=classes, groups=groups)

    def _retrieval(self, features: Tensor, encoder: Encoder) -> Measured:
        rows = [row for row, captions in enumerate(self.captions) for _ in captions]
        captions = [caption for of_one in self.captions for caption in of_one]
        texts = encode_texts(encoder, captions)
        every = torch.ones(len(rows), dtype=torch.bool)
        found = evaluate_retrieval(Pairs(torch.stack([features[rows], texts], dim=1), rows, captions, every, every), RECALL_KS)
        images = {f"image_recall_at_{k}": score.value for k, score in found.text_to_image.items()}
        of_texts = {f"text_recall_at_{k}": score.value for k, score in found.image_to_text.items()}
        both = [k for k in RECALL_KS if k in found.text_to_image and k in found.image_to_text]
        means = {f"mean_recall_at_{k}": (images[f"image_recall_at_{k}"] + of_texts[f"text_recall_at_{k}"]) / 2 for k in both}
        return Measured(images | of_texts | means, self.count, RETRIEVAL, captions=found.captions)


class AssociationReading:
    """WinoGAViL: the pictures that are candidates of any cue, and the cues of each task."""

    def __init__(self, dataset: Associations, tasks: Sequence[SuiteTask]) -> None:
        self.dataset = dataset
        self.tasks = tasks
        self.cues = {task.name: dataset.cues(task) for task in tasks}
        names = dict.fromkeys(name for cues in self.cues.values() for cue in cues for name in cue.candidates)
        self.rows = {name: row for row, name in enumerate(names)}

    def items(self) -> Iterator[Picture]:
        """Yield every picture once."""
        yield from self.dataset.pictures(list(self.rows))

    def check_sizes(self) -> None:
        """Raise DataError where a task has another number of cues than it says."""
        for task in self.tasks:
            if task.size not in (None, len(self.cues[task.name])):
                raise DataError(
                    f"Task '{task.name}' is of {task.size} cues, {len(self.cues[task.name])} are there",
                    where=self.dataset.uri,
                    fix="Fetch the dataset again, or correct the task's `size`.",
                )

    def score(self, task: SuiteTask, features: Tensor, encoder: Encoder) -> Measured:
        """Score a model by the features [n, dim] of all pictures."""
        cues = self.cues[task.name]
        texts = encode_texts(encoder, [cue.prompt for cue in cues])
        found = []
        for text, cue in zip(texts, cues, strict=True):
            similarity = features[[self.rows[name] for name in cue.candidates]] @ text
            found.append(jaccard(similarity, torch.tensor([name in cue.associations for name in cue.candidates])))
        return Measured({"jaccard": sum(found) / len(found)}, len(cues), ASSOCIATION)
