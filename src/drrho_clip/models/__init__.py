"""CLIP models, as open_clip builds them: our small architectures, finished models for inference, and exports."""

from drrho_clip.models.architectures import (
    ArchitectureInfo,
    architecture_info,
    check_architecture,
    create_model,
    known_architectures,
    parameter_count,
    tokenizer,
)
from drrho_clip.models.batches import encode_images, encode_pairs, encode_texts
from drrho_clip.models.checkpoints import CheckpointWeights, checkpoint_weights, list_checkpoints
from drrho_clip.models.encoder import Encoder, normalise
from drrho_clip.models.export import exported_sha256, save_export
from drrho_clip.models.identity import ModelIdentity, Preprocessing, refuse_mix
from drrho_clip.models.load import load_checkpoint, load_model

__all__ = [
    "ArchitectureInfo",
    "CheckpointWeights",
    "Encoder",
    "ModelIdentity",
    "Preprocessing",
    "architecture_info",
    "check_architecture",
    "checkpoint_weights",
    "create_model",
    "encode_images",
    "encode_pairs",
    "encode_texts",
    "exported_sha256",
    "known_architectures",
    "list_checkpoints",
    "load_checkpoint",
    "load_model",
    "normalise",
    "parameter_count",
    "refuse_mix",
    "save_export",
    "tokenizer",
]
