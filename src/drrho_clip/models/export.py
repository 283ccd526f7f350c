"""Exports: a model as open_clip loads it from a folder, "local-dir:<folder>", and how they are fetched again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drrho_clip.errors import ModelError, ObjectMissing, nearest
from drrho_clip.models.architectures import activation_of, model_config, tokenizer
from drrho_clip.models.weights import cache_folder, file_sha256
from drrho_clip.storage import layout

if TYPE_CHECKING:
    import torch

    from drrho_clip.storage import Store

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


def save_export(model: torch.nn.Module, architecture: str, store: Store, prefix: str) -> str:
    """Write `model` (as `create_model(architecture)` built it) below `prefix`; return the sha256 of its weights file.

    The config is written last and names the weights by their hash, so that a half-written export is never taken for one.
    open_clip loads a copy of the folder unchanged, as "local-dir:<folder>". Writing the same model again changes nothing.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_NAME)
        sha256 = file_sha256(folder / WEIGHTS_NAME)
        if _published_sha256(store, prefix) == sha256:
            return sha256
        store.delete(f"{prefix}/{CONFIG_NAME}")
        _save_tokenizer(architecture, folder)
        for path in sorted(folder.iterdir()):
            store.upload(f"{prefix}/{path.name}", path)
    store.write(f"{prefix}/{CONFIG_NAME}", json.dumps(_config(model, architecture, sha256), indent=2).encode())
    return sha256


def _config(model: torch.nn.Module, architecture: str, sha256: str) -> dict[str, Any]:
    network = model_config(architecture)
    if activation_of(model) == "quickgelu":
        network["quick_gelu"] = True
    visual: Any = model.visual
    return {
        "model_cfg": network,
        "preprocess_cfg": {key: value for key, value in visual.preprocess_cfg.items() if key != "size"},
        "architecture": architecture,
        "weights_sha256": sha256,
    }


def _save_tokenizer(architecture: str, folder: Path) -> None:
    """Add the files of a tokenizer from the hub, which open_clip looks for in the folder; CLIP's own comes with open_clip."""
    if model_config(architecture)["text_cfg"].get("hf_tokenizer_name"):
        hub_tokenizer: Any = tokenizer(architecture)
        hub_tokenizer.save_pretrained(folder)


def _published_sha256(store: Store, prefix: str) -> str | None:
    try:
        return str(json.loads(store.read(f"{prefix}/{CONFIG_NAME}"))["weights_sha256"])
    except (ObjectMissing, ValueError, KeyError, TypeError):
        return None


def fetch_run_export(run: str, store: Store) -> Path:
    """Return a local folder with the export of a run, cached by its weights' hash."""
    prefix, sha256 = layout.export(run), exported_sha256(run, store)
    folder = cache_folder(sha256)
    for info in store.list(f"{prefix}/"):
        path = folder / info.key.removeprefix(f"{prefix}/")
        if path.name != WEIGHTS_NAME or not path.is_file() or file_sha256(path) != sha256:
            store.download(info.key, path)
    if not (folder / WEIGHTS_NAME).is_file() or file_sha256(folder / WEIGHTS_NAME) != sha256:
        raise ModelError(
            f"The export of run '{run}' is damaged: its weights are not those that its config names",
            where=store.uri_of(f"{prefix}/{WEIGHTS_NAME}"),
            fix="Export the run again from its last checkpoint, or train it under a new name.",
        )
    return folder


def exported_sha256(run: str, store: Store) -> str:
    """Return the hash of the exported weights of a run; ModelError names the runs that have an export."""
    prefix = layout.export(run)
    sha256 = _published_sha256(store, prefix)
    if sha256 is None:
        known = exported_runs(store)
        fix = nearest(run, known) if known else "No run has one yet: train one first, `drrho train`."
        raise ModelError(f"Run '{run}' has no exported model", where=store.uri_of(prefix), fix=fix)
    return sha256


def exported_runs(store: Store) -> list[str]:
    """Return the names of the runs that have an export."""
    suffix = f"/export/{CONFIG_NAME}"
    return [info.key.split("/")[1] for info in store.list("runs/") if info.key.endswith(suffix)]
