"""Classifier weights, built once for each (model, class names, prompts) and kept in the store."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from drrho_clip.errors import ObjectMissing
from drrho_clip.evaluation.classes import ClassList
from drrho_clip.evaluation.zero_shot import build_classifier
from drrho_clip.observe import get_logger
from drrho_clip.storage import layout

if TYPE_CHECKING:
    from drrho_clip.models import Encoder
    from drrho_clip.storage import Store


def classifier_id(encoder: Encoder, classes: ClassList) -> str:
    """Identity of a classifier: what its weights depend on, whatever the model is called."""
    facts = [encoder.identity.model_dump(exclude={"spec"}), classes.classnames, classes.templates]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def cached_classifier(encoder: Encoder, classes: ClassList, store: Store) -> Tensor:
    """Return the text features of the classes: float32 [classes, dim], unit norm, on the CPU."""
    key = layout.classifier(classifier_id(encoder, classes))
    try:
        return load(store.read(key))["weights"]
    except ObjectMissing:
        pass
    except (SafetensorError, KeyError) as error:
        get_logger().warning("classifier_unreadable", key=key, reason=str(error))
    weights = build_classifier(encoder, classes).contiguous()
    store.write(key, save({"weights": weights}))
    get_logger().info("classifier_built", classes=len(classes.classnames), templates=len(classes.templates), key=key)
    return weights
