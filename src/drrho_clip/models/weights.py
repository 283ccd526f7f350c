"""Weights files: where they come from, their hash, and how they get into a network without running any code of theirs."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drrho_clip.errors import ModelError
from drrho_clip.observe import get_logger

if TYPE_CHECKING:
    import torch

SAFE_NAME = "open_clip_model.safetensors"  # what open_clip looks for in a repository of the hub, in this order
PICKLE_NAME = "open_clip_pytorch_model.bin"
CACHE_BYTES = 16 * 2**30  # of weights that came from stores
IN_USE_SECONDS = 3600.0  # after its last use weights may still be being fetched or loaded
OPENAI_EXTRA_KEYS = ("input_resolution", "context_length", "vocab_size")


def cache_folder(name: str) -> Path:
    """Return `name` in the user's cache, or a temporary folder where no cache can be written (a container without a home).

    Of the others there, those that were not used for longest are deleted where all take more than `CACHE_BYTES`.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drrho_clip" / name
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.utime(folder)
            _shrink(folder.parent, CACHE_BYTES)
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home folder at all
        pass
    return Path(tempfile.mkdtemp(prefix="drrho-clip-"))


def _shrink(cache: Path, limit: int) -> None:
    """Delete the oldest folders of a cache until the others take `limit` bytes, but none that may be in use."""
    folders = []
    for folder in cache.iterdir():
        with suppress(OSError):  # another process may delete it meanwhile
            folders.append((folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir()), folder))
    total = sum(size for _, size, _ in folders)
    for used, size, folder in sorted(folders):
        if total <= limit or time.time() - used < IN_USE_SECONDS:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a weights file into `model`, every key of both sides matched.

    Takes .safetensors and files of torch.save that hold tensors and plain values only: a state dict, or an open_clip training
    checkpoint ("state_dict" inside, "module." before the names). ModelError says why a file is refused.
    """
    import torch
    from open_clip.factory import load_checkpoint
    from safetensors import SafetensorError

    try:
        with torch.no_grad():
            load_checkpoint(model, str(path), strict=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from None
    except RuntimeError as error:
        raise _torchscript(path) if "TorchScript" in str(error) else _unfit(path, error) from None
    except AssertionError as error:  # open_clip asserts that position embeddings can be resized
        raise _unfit(path, error) from None
    except (SafetensorError, OSError, EOFError, KeyError, AttributeError, TypeError, StopIteration, ValueError) as error:
        raise ModelError(
            f"This is no weights file of a CLIP model: {type(error).__name__} {error}".rstrip(),
            where=str(path),
            fix="Give a .safetensors or .pt file that holds the state dict of an open_clip model.",
        ) from None


def _unsafe(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        "This file holds more than tensors and plain values, so that loading it could run code; it was not loaded",
        where=str(path),
        fix="If you trust it, save its weights alone, on a machine where it may run: "
        "torch.save(torch.load(path, weights_only=False)['state_dict'], new_path). "
        f"Reason: {next((line.strip() for line in reason if 'GLOBAL' in line or 'Unsupported' in line), reason[0])}",
    )


def _torchscript(path: Path) -> ModelError:
    return ModelError(
        "This is a TorchScript archive, which can hold code; it was not loaded",
        where=str(path),
        fix="Save its weights alone, on a machine where it may run: "
        "state = torch.jit.load(path, map_location='cpu').state_dict(); "
        f"torch.save({{k: v for k, v in state.items() if k not in {OPENAI_EXTRA_KEYS}}}, new_path). OpenAI's own weights "
        "need an architecture that ends in -quickgelu.",
    )


def _unfit(path: Path, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = "; ".join(line[:160] for line in lines[1:4] or lines)
    return ModelError(
        f"The weights do not fit the architecture: {shown}",
        where=str(path),
        fix="Name the architecture that they were trained with before the colon: ARCHITECTURE:weights.",
    )


def pretrained_file(architecture: str, tag: str, config: dict[str, Any]) -> Path:
    """Return the local file of an open_clip pretrained tag: from the cache, without any call, or fetched into it.

    ModelError names the file that is missing and where to put it.
    """
    repository, _, filename = str(config.get("hf_hub", "")).rpartition("/")
    url = str(config.get("url", ""))
    path = _from_hub(repository, filename) if repository else _from_url(url)
    if path is not None:
        return path
    name = architecture.removesuffix("-quickgelu") + ("-quickgelu" if config.get("quick_gelu") else "")
    if repository:
        missing = f"https://huggingface.co/{repository}/resolve/main/{filename or SAFE_NAME}"
        place = f"run `hf download {repository}` on a machine with access and copy its Hugging Face cache (HF_HOME) here"
    else:
        missing, place = url, f"put it at {_url_target(url)}"
    raise ModelError(
        f"The weights '{tag}' of {architecture} are not in the local cache and cannot be fetched",
        where=missing,
        fix=f"Either {place}, or save the file anywhere and use the model '{name}:/path/to/{Path(missing).name}'.",
    )


def _from_hub(repository: str, filename: str) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    names = (filename,) if filename else (SAFE_NAME, PICKLE_NAME)
    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError:  # offline, or the hub does not answer
            return None
        except EntryNotFoundError:  # the hub answers that it has no such file
            continue
        except (OSError, ValueError) as error:
            get_logger().warning("hub_failed", repository=repository, file=name, reason=str(error).splitlines()[0])
            return None
    return None


def _url_target(url: str) -> Path:
    return Path("~/.cache/clip").expanduser() / Path(url).name


def _from_url(url: str) -> Path | None:
    """Fetch with open_clip (which checks the hash in the name) into a folder of our own, then rename: nobody sees half a file."""
    from open_clip.pretrained import download_pretrained_from_url

    target = _url_target(url)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            os.replace(download_pretrained_from_url(url, cache_dir=folder), target)
    except (OSError, RuntimeError):  # RuntimeError: the hash differs
        return None
    return target
