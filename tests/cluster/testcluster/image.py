"""The product's image, from images/Dockerfile: buildah with chroot isolation on a base made by debootstrap, no registry."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import runpy
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import IO, Any

from . import system
from .places import PRODUCT, ROOT
from .report import Progress, locked

BASE = "localhost/drrho-base:1"
PACKAGES = "ca-certificates,python3,python3-venv"
SUITE = "bookworm"
# Parts of PyTorch's CUDA build that no CPU needs: its CPU build, which would be small, is not on the index that pip has here.
PRUNE = (
    "triton nvidia/cudnn/lib/libcudnn_*.so* nvidia/*/lib/libnvrtc.alt* nvidia/*/lib/libcusolverMg* nvidia/*/lib/libnvperf*"
    " torch/lib/libtorch_cuda_linalg.so"
)


def extras() -> str:
    """Return the optional dependencies that the image brings."""
    return f"[{','.join(name for name in ('demo', 'cluster') if name in _project()['optional-dependencies'])}]"


def _project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def images_folder(cache: Path) -> Path:
    """Folder of the image's layers: a new one for other dependencies, so that what is old can go; the wheel's layer is small."""
    requirements = runpy.run_path(str(ROOT / "images/requirements.py"))["requirements"](_project(), extras())
    digest = hashlib.sha256("\n".join((PRUNE, SUITE, PACKAGES, *requirements)).encode())
    for name in ("images/Dockerfile", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return cache / f"images-{digest.hexdigest()[:12]}"


def build_image(cache: Path, progress: Progress) -> Path:
    """Build the image PRODUCT and return the OCI layout folder that holds it; layers that are there already stay."""
    with locked(cache / "image.lock", progress):
        return _build(cache, images_folder(cache), progress)


def _build(cache: Path, folder: Path, progress: Progress) -> Path:
    log = cache / "image.log"
    for old in cache.glob("images-*"):
        if old != folder:
            system.remove_tree(old)
    _build_base(folder, cache, progress)
    _run(_buildah(folder, "rm", "--all"), log)  # what an interrupted build left
    with progress.step("product image"), tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = _buildah(folder, "build", "--layers", "--file", str(ROOT / "images/Dockerfile"), "--tag", PRODUCT)
        for name, value in (("BASE", BASE), ("EXTRAS", extras()), ("PRUNE", PRUNE)):
            command += ["--build-arg", f"{name}={value}"]
        for volume in _pip_volumes(Path(temporary)):
            command += ["--volume", volume]
        _run([*command, str(ROOT)], log)
        layout = folder / "layout"
        # Uncompressed, so that layers are known by their digests: those that the layout has are not written again.
        stored = f"containers-storage:[overlay@{folder / 'root'}+{folder / 'run'}]{PRODUCT}"
        _run(["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", stored, f"oci:{layout}:{PRODUCT}"], log)
        _drop_unused(layout)
    return layout


def _build_base(folder: Path, cache: Path, progress: Progress) -> None:
    archive, log = cache / f"base-{SUITE}.tar", cache / "image.log"
    if not archive.exists():
        with progress.step("base image (debootstrap)"), tempfile.TemporaryDirectory(dir=cache) as temporary:
            root, unfinished = Path(temporary) / "root", Path(temporary) / "root.tar"
            _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)], log)
            leave = [f"--exclude=./{path}" for path in ("dev/*", "proc/*", "sys/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
            _run(["tar", "--numeric-owner", *leave, "-cf", str(unfinished), "-C", str(root), "."], log)
            unfinished.rename(archive)
    if subprocess.run(_buildah(folder, "inspect", "--type=image", BASE), capture_output=True).returncode:
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            (Path(temporary) / "root.tar").hardlink_to(archive)
            (Path(temporary) / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
            _run(_buildah(folder, "build", "--tag", BASE, "--file", f"{temporary}/Dockerfile", temporary), log)


def write_archive(layout: Path, known: Container[str], stream: IO[bytes]) -> None:
    """Write an OCI archive of what `layout` has beyond the digests in `known`; what names the image is always in it."""
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in ("oci-layout", "index.json"):
            tar.add(layout / name, name)
        for blob in sorted((layout / "blobs/sha256").iterdir()):
            if f"sha256:{blob.name}" not in known:
                tar.add(blob, f"blobs/sha256/{blob.name}")


def share_blobs(layout: Path, content: Path) -> None:
    """Keep the layout's blobs that are also in the folder `content`, containerd's, once on the disk: neither ever changes one."""
    for blob in (layout / "blobs/sha256").iterdir():
        other = content / blob.name
        if other.exists() and not other.samefile(blob):
            linked = blob.with_suffix(".linked")
            linked.hardlink_to(other)
            linked.replace(blob)


def _drop_unused(layout: Path) -> None:
    """Remove from the layout the blobs of earlier builds."""
    manifest = json.loads((layout / "index.json").read_bytes())["manifests"][-1]
    index = json.loads((layout / "index.json").read_bytes()) | {"manifests": [manifest]}
    (layout / "index.json").write_text(json.dumps(index))
    blobs = layout / "blobs/sha256"
    content = json.loads((blobs / manifest["digest"].removeprefix("sha256:")).read_bytes())
    used = {item["digest"].removeprefix("sha256:") for item in (manifest, content["config"], *content["layers"])}
    for blob in blobs.iterdir():
        if blob.name not in used:
            blob.unlink()


def _buildah(store: Path, *arguments: str) -> list[str]:
    return ["buildah", "--storage-driver=overlay", f"--root={store / 'root'}", f"--runroot={store / 'run'}", *arguments]


def _run(command: list[str], log: Path) -> None:
    """Run with output into the end of `log`; RuntimeError with its last lines if it fails."""
    with log.open("ab") as stream:
        environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment).returncode
    if code:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError("\n".join([f"{' '.join(command[:1])} ended with {code}, see {log}:", *lines]))


def _pip_volumes(folder: Path) -> list[str]:
    """Volumes that let pip inside the build reach the index that this machine uses; none of it stays in the image."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    found = dict(settings["global"]) if settings.has_section("global") else {}
    found |= {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name.startswith("PIP_")}
    found = {name: value for name, value in found.items() if name not in ("constraint", "require-virtualenv", "config-file")}
    volumes = {"/etc/ssl/certs"}
    volumes |= {path for path in found.get("find-links", "").split() if Path(path).is_dir()}
    if Path(found.get("cert", "/etc/ssl")).is_file():
        volumes.add(str(Path(found["cert"]).parent))
    written = configparser.ConfigParser(interpolation=None)
    written["global"] = {name: value for name, value in found.items() if value}
    with (folder / "pip.conf").open("w") as stream:
        written.write(stream)
    return [f"{folder}/pip.conf:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(volumes))]
