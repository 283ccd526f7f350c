"""The product's image, from images/Dockerfile: buildah with chroot isolation on a base made by debootstrap, no registry."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path

from .places import PRODUCT, ROOT
from .report import Progress

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
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return f"[{','.join(name for name in ('demo', 'cluster') if name in known)}]"


def build_image(cache: Path, progress: Progress) -> Path:
    """Build the image PRODUCT and return the OCI layout folder that holds it; layers that are there already stay."""
    store = cache / "images"
    _build_base(store, cache, progress)
    with progress.step("product image"), tempfile.TemporaryDirectory(dir=cache) as folder:
        command = _buildah(store, "build", "--layers", "--file", str(ROOT / "images/Dockerfile"), "--tag", PRODUCT)
        for name, value in (("BASE", BASE), ("EXTRAS", extras()), ("PRUNE", PRUNE)):
            command += ["--build-arg", f"{name}={value}"]
        for volume in _pip_volumes(Path(folder)):
            command += ["--volume", volume]
        _run([*command, str(ROOT)], cache / "image.log")
        layout = store / "layout"
        _run(_buildah(store, "push", "--disable-compression", PRODUCT, f"oci:{layout}:{PRODUCT}"), cache / "image.log")
        _drop_unused(layout)
        _run(_buildah(store, "rmi", "--prune"), cache / "image.log")
    return layout


def _build_base(store: Path, cache: Path, progress: Progress) -> None:
    if not subprocess.run(_buildah(store, "inspect", BASE), capture_output=True).returncode:
        return
    with progress.step("base image (debootstrap)"), tempfile.TemporaryDirectory(dir=cache) as folder:
        root, log = Path(folder) / "root", cache / "image.log"
        _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)], log)
        archive = Path(folder) / "root.tar"
        leave = [f"--exclude=./{path}" for path in ("dev/*", "proc/*", "sys/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
        _run(["tar", "--numeric-owner", *leave, "-cf", str(archive), "-C", str(root), "."], log)
        (Path(folder) / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
        _run(_buildah(store, "build", "--tag", BASE, "--file", f"{folder}/Dockerfile", folder), log)


def missing_blobs(layout: Path, known: set[str], archive: Path) -> None:
    """Write an OCI archive of what `layout` has beyond the digests in `known`; what names the image is always in it."""
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "index.json"):
            tar.add(layout / name, name)
        for blob in sorted((layout / "blobs/sha256").iterdir()):
            if f"sha256:{blob.name}" not in known:
                tar.add(blob, f"blobs/sha256/{blob.name}")


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
