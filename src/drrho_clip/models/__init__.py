"""CLIP models, as open_clip builds them: our small architectures, finished models for inference, and exports."""

from drrho_clip.models.architectures import (
    ArchitectureInfo,
    architecture_info,
    check_architecture,
    create_model,
    known_architectures,
    tokenizer,
)
from drrho_clip.models.batches import encode_pairs
from drrho_clip.models.encoder import Encoder
from drrho_clip.models.export import exported_sha256, save_export
from drrho_clip.models.identity import ModelIdentity, Preprocessing, refuse_mix
from drrho_clip.models.load import load_model

__all__ = [
    "ArchitectureInfo",
    "Encoder",
    "ModelIdentity",
    "Preprocessing",
    "architecture_info",
    "check_architecture",
    "create_model",
    "encode_pairs",
    "exported_sha256",
    "known_architectures",
    "load_model",
    "refuse_mix",
    "save_export",
    "tokenizer",
]
