"""The advisor: which reference to steer by, and with which settings, before the training that would show it.

A pilot model of the planned architecture is trained for a small share of the planned samples, without a reference. It stands for
what the data teaches by itself. Every candidate reference is then compared with it on pairs of the dataset.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drrho_clip.data.features import FeatureReader
from drrho_clip.data.manifest import Manifest, load_manifest
from drrho_clip.data.order import Indices
from drrho_clip.data.pairs import image_and_caption
from drrho_clip.data.reader import SampleReader
from drrho_clip.method.advice import effective_negatives, information, negative_similarities, recommend
from drrho_clip.method.contrastive import GlobalBatch
from drrho_clip.method.variance import pairwise_moments
from drrho_clip.models import encode_pairs, load_model
from drrho_clip.observe import get_logger, progress
from drrho_clip.schema import Config
from drrho_clip.storage import layout
from drrho_clip.studies.config import AdviseConfig
from drrho_clip.training import TrainConfig, train
from drrho_clip.training.config import METHOD_SETTINGS
from drrho_clip.training.launch import run_locally
from drrho_clip.training.step import Launch, random_pairs

if TYPE_CHECKING:
    from drrho_clip.storage import Store

UNSEEN = ("validation", "heldout")
CHANGE = 0.05  # bits: what lies closer is called equal


class ReferenceAdvice(Config):
    """What is expected of one reference."""

    reference: str
    helps: bool
    why: str
    information: float  # bits, on pairs that neither the pilot nor (if it was not trained on them) the reference has seen
    variance: float  # Var(l) of the pilot
    variance_minus_reference: float  # Var(l - l_ref)
    explained: float  # share of Var(l) that l_ref explains, whatever its scale: the squared correlation
    spread: float  # standard deviation of the reference's similarities among an anchor's negatives
    effective_negatives: float  # of the pilot's anchors when it is steered with the temperature below
    dropped: float  # share of the anchors that eps would let drop out once they were learnt by heart
    temperature: float
    eps: float


class Advice(Config):
    """The candidates, best first, and the pilot that they were compared with."""

    dataset: str
    dataset_version: int
    batch_size: int
    pilot: str
    pilot_samples: int
    pilot_information: float
    compared_on: str
    references: tuple[ReferenceAdvice, ...]

    @property
    def best(self) -> ReferenceAdvice | None:
        """The reference to take; None where none will help."""
        return self.references[0] if self.references[0].helps else None


def advise(config: AdviseConfig, planned: TrainConfig, store: Store, launch: Launch = run_locally) -> Advice:
    """Rank references for a planned training; the advice is kept beside the pilot. DataError: features that are not there."""
    manifest = load_manifest(store, planned.dataset, planned.dataset_version or None)
    readers = {name: FeatureReader(store, planned.dataset, name, manifest) for name in config.names}
    unseen = next((split for split in UNSEEN if split in manifest.splits), planned.split)
    summary = train(pilot_config(config, planned, manifest), store, launch=launch)
    seen_pairs = random_pairs(manifest, planned.split, planned.batch_size)
    unseen_pairs = random_pairs(manifest, unseen, 0)
    pilot = _encode(f"run:{summary.run}", manifest, seen_pairs, store)
    known = information(_encode(f"run:{summary.run}", manifest, unseen_pairs, store))
    candidates = [
        _compare(name, reader.get(seen_pairs).float(), information(reader.get(unseen_pairs)), pilot, known, planned.batch_size)
        for name, reader in readers.items()
    ]
    advice = Advice(
        dataset=planned.dataset,
        dataset_version=manifest.version,
        batch_size=planned.batch_size,
        pilot=summary.run,
        pilot_samples=summary.samples_seen,
        pilot_information=known,
        compared_on=unseen,
        references=tuple(sorted(candidates, key=lambda found: -found.information)),
    )
    store.write(layout.advice(summary.run), advice.model_dump_json(indent=1).encode())
    get_logger().info("advice", pilot=summary.run, best=advice.best.reference if advice.best else None)
    return advice


def pilot_config(config: AdviseConfig, planned: TrainConfig, manifest: Manifest) -> TrainConfig:
    """The pilot's training: the planned one, shorter and with CLIP's own loss. Its name says what it was made of."""
    samples = max(int(planned.samples * config.pilot_fraction), config.pilot_steps * planned.batch_size)
    own = {name: TrainConfig.model_fields[name].default for name in (*METHOD_SETTINGS, "learn_temperature")}
    changed = {
        "method": "openclip",
        "reference": "",
        "samples": min(samples, planned.samples),
        "record_weights": "no",
        "dataset_version": manifest.version,
    }
    pilot = planned.model_copy(update={**own, **changed, "run": ""})
    pilot = pilot.model_copy(update={"warmup_steps": min(pilot.warmup_steps, pilot.steps // 5)})
    digest = hashlib.sha256(pilot.model_dump_json().encode()).hexdigest()[:10]
    return pilot.model_copy(update={"run": f"pilot-{digest}"})


def _encode(model: str, manifest: Manifest, index: Indices, store: Store) -> Tensor:
    """Features [n, 2, dim] of these samples by a finished model."""
    reader = SampleReader(store, manifest)
    samples = progress((reader.get(int(i)) for i in index), what="pilot features", total=len(index), unit="samples")
    return torch.cat(list(encode_pairs(load_model(model, store), samples, image_and_caption, batch_size=256)))


def _compare(name: str, reference: Tensor, known: float, pilot: Tensor, pilot_knows: float, batch_size: int) -> ReferenceAdvice:
    settings = recommend(reference, batch_size)
    own, steering = (pilot[:, 0], pilot[:, 1]), (reference[:, 0], reference[:, 1])
    everything = torch.ones(len(pilot), dtype=torch.bool)
    batches = (GlobalBatch(own, steering, everything), GlobalBatch(steering, None, everything))
    compared = ((batches[0], False), (batches[1], False), (batches[0], True))
    variances = [float(pairwise_moments(pairs, steered=steered).variance.mean()) for pairs, steered in compared]
    covariance = (variances[0] + variances[1] - variances[2]) / 2
    batch = min(batch_size, len(pilot))
    rows = negative_similarities((own[0][:batch], own[1][:batch]), (steering[0][:batch], steering[1][:batch]))
    helps = known > pilot_knows + CHANGE
    why = f"knows {known:.2f} bits of a pair, the data alone taught the pilot {pilot_knows:.2f}"
    return ReferenceAdvice(
        reference=name,
        helps=helps,
        why=why if helps else why + ": it has nothing to add",
        information=known,
        variance=variances[0],
        variance_minus_reference=variances[2],
        explained=covariance**2 / max(variances[0] * variances[1], 1e-30),
        spread=settings.spread,
        effective_negatives=effective_negatives(rows, settings.temperature),
        dropped=settings.dropped,
        temperature=float(f"{settings.temperature:.3g}"),
        eps=float(f"{settings.eps:.3g}"),
    )
