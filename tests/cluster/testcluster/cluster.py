"""A cluster: started, used and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from . import image, oci, packages
from .build import build_programs, programs_folder
from .keys import make_keys
from .places import HERE, PRODUCT, REGISTRY, Places, cache_folder, places
from .report import Progress
from .settings import write_settings
from .supervisor import clean

START_SECONDS = 180.0
END_SECONDS = 60.0
ROOM_COLD, ROOM_WARM = 24, 6  # GB that building everything takes at most, and running a cluster of what is built
ROLLOUT = "--timeout=300s"  # the API, its clients and the tests share the machine's cores
OPERATORS = {
    "training": "kubeflow/training-operator",
    "jobset": "jobset-system/jobset-controller-manager",
    "trainer": "kubeflow-system/kubeflow-trainer-controller-manager",
    "kueue": "kueue-system/kueue-controller-manager",
}


class Cluster:
    """The cluster `name` on this machine: `start`, then `kubectl` and `inside`, then `stop`."""

    def __init__(self, name: str, progress: Progress | None = None) -> None:
        self.places: Places = places(name)
        self.progress = progress or Progress()
        self.built: Path = programs_folder(self.places.cache)
        self.programs = self.built / "bin"
        self.tag = self.built.name.removeprefix("programs-")  # of the cluster's own images: it changes with the programs
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def supervisor(self) -> int:
        """Process id of the supervisor, in whose children the cluster runs; 0 if it is not running."""
        with suppress(OSError, ValueError):
            process = int((self.places.run / "supervisor.pid").read_text())
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if b"testcluster.supervisor" in command and self.places.name.encode() in command:
                return process
        return 0

    @property
    def network(self) -> Path:
        """The file that leads into the cluster's network namespace."""
        return Path(f"/proc/{int((self.places.run / 'init.pid').read_text())}/ns/net")

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs `command` in the cluster's network."""
        return ["nsenter", f"--net={self.network}", *command]

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl as the administrator and return its output; CalledProcessError, with its words, if it fails."""
        command = self.inside(str(self.programs / "kubectl"), f"--kubeconfig={self.places.kubeconfig}", *arguments)
        result = subprocess.run(command, input=stdin, capture_output=True, text=True)
        if check and result.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}")
        return result.stdout

    def apply(self, manifests: str, *arguments: str) -> None:
        """Apply manifests, given as text."""
        self.kubectl("apply", "--server-side", "--force-conflicts", *arguments, "--filename=-", stdin=manifests)

    def start(self, *, stay: bool = False) -> None:
        """Start the cluster, with everything built; with `stay` it outlives this process.

        RuntimeError with the words of the program that ended, if one did.
        """
        packages.install_packages(self.progress)
        build_programs(self.places.cache, self.progress)
        here = self.places
        with self._alone(0.0 if stay else END_SECONDS) as lock, self.progress.step(f"starting the cluster {here.name}"):
            clean(here)
            shutil.rmtree(here.run, ignore_errors=True)
            here.logs.mkdir(parents=True)
            make_keys(here)
            runc = packages.find("runc")
            assert runc is not None
            write_settings(here, oci.image_name("pause", self.tag), runc)
            self._supervise(lock, stay)
            try:
                self._wait_until_up()
            except BaseException:
                self._end_supervisor()
                raise

    def _wait_until_up(self) -> None:
        self._wait("containerd", lambda: self._containerd("version") is not None)
        self._import_singles()
        self._wait("the API server", lambda: self._ready_node() is not None)
        self._wait("the node", lambda: self._ready_node() == "True")
        self.apply((HERE / "manifests/base.yaml").read_text().replace("TAG", self.tag))
        self.kubectl("--namespace=kube-system", "rollout", "status", "deployment/coredns", ROLLOUT)

    def start_with_everything(self, layout: Path, *, stay: bool = False) -> None:
        """Start the cluster with the operators in it, and the product's image from the OCI layout that `build_all` returned."""
        self.start(stay=stay)
        try:
            self.install_operators()
            self.load_product(layout)
        except BaseException:
            self.stop()
            raise

    def install_operators(self) -> None:
        """Install the training operators and Kueue from the manifests of their modules, as pods."""
        with self.progress.step("training operator, JobSet, Trainer, Kueue"):
            for name in OPERATORS:
                self.apply(self._operator_manifests(name))
            for deployment in OPERATORS.values():
                namespace, _, name = deployment.partition("/")
                self.kubectl(f"--namespace={namespace}", "rollout", "status", f"deployment/{name}", ROLLOUT)

    def load_product(self, layout: Path) -> None:
        """Give the product's image to the cluster: only layers that it lacks are copied."""
        with self.progress.step("loading the product's image"):
            known = set(self._need("content", "ls", "--quiet").split())
            command = [*self._ctr, "images", "import", "-"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importer:
                assert importer.stdin is not None
                image.write_archive(layout, known, importer.stdin)
            image.share_blobs(layout, self.places.state / "containerd/io.containerd.content.v1.content/blobs/sha256")
            assert PRODUCT in self._need("images", "ls", "--quiet").split()
            self._forget_old_images()

    def stop(self) -> None:
        """End the cluster and wait until it is gone; does nothing if it does not run."""
        self._end_supervisor()
        with self._alone(END_SECONDS):
            clean(self.places)  # of a supervisor that was killed

    def _end_supervisor(self) -> None:
        if process := self.supervisor:
            os.kill(process, signal.SIGTERM)
        if self._supervisor is not None:
            self._supervisor.wait(timeout=END_SECONDS)
            self._supervisor = None

    @contextmanager
    def _alone(self, seconds: float) -> Iterator[IO[str]]:
        """Hold the cluster's lock, which its processes keep while they live; RuntimeError if they outlive `seconds`."""
        self.places.lock.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + seconds
        with self.places.lock.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        words = f"The cluster {self.places.name} runs already (process {self.supervisor})."
                        raise RuntimeError(f"{words} Wait for its end, or remove it.") from None
                    time.sleep(0.1)
            yield file

    def _supervise(self, lock: IO[str], stay: bool) -> None:
        command = [sys.executable, "-m", "testcluster.supervisor", self.places.name, str(self.programs)]
        with (self.places.logs / "supervisor.log").open("wb") as log:
            self._supervisor = subprocess.Popen(
                command if stay else [*command, "--until-input-ends"],
                cwd=HERE,
                env=os.environ | {"PYTHONPATH": str(HERE)},
                stdin=subprocess.DEVNULL if stay else subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),  # locked as long as the supervisor lives
                start_new_session=True,  # Ctrl-C is for the tests first; they then end the cluster
            )

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        assert self._supervisor is not None
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                words = (self.places.logs / "supervisor.log").read_text(errors="replace").strip()[-2000:]
                raise RuntimeError(f"{what} of the cluster did not start, see {self.places.logs}. {words}")
            time.sleep(0.1)

    def _ready_node(self) -> str | None:
        """The node's Ready condition; None while the API server does not answer or has no node."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        with suppress(RuntimeError, OSError, ValueError):
            return self.kubectl("get", "node", self.places.node, "--output", path).strip()
        return None

    @property
    def _ctr(self) -> list[str]:
        return ["ctr", f"--address={self.places.socket}", "--namespace=k8s.io"]

    def _containerd(self, *arguments: str) -> str | None:
        result = subprocess.run([*self._ctr, *arguments], capture_output=True, text=True)
        return None if result.returncode else result.stdout

    def _need(self, *arguments: str) -> str:
        output = self._containerd(*arguments)
        if output is None:
            raise RuntimeError(f"ctr {' '.join(arguments)} failed; see containerd.log in {self.places.logs}")
        return output

    def _import_singles(self) -> None:
        """Give containerd the cluster's own images, and take away those of earlier programs."""
        known = self._need("images", "ls", "--quiet").split()
        for name in known:
            if name.startswith(f"{REGISTRY}/") and not name.endswith(f":{self.tag}"):
                self._need("images", "rm", name)
        with tempfile.TemporaryDirectory(dir=self.places.cache) as folder:
            archive = Path(folder) / "image.tar"
            for single in oci.SINGLES:
                if oci.image_name(single.name, self.tag) not in known:
                    oci.write_single(single, self.programs / single.name, self.tag, archive)
                    self._need("images", "import", str(archive))
            if oci.image_name("busybox", self.tag) not in known:
                oci.write_busybox(self.tag, archive)
                self._need("images", "import", str(archive))

    def _forget_old_images(self) -> None:
        """Remove images that have lost their name to a newer one: kubelet knows them by id too, and would keep them for ever."""
        lines = [line.split() for line in self._need("images", "ls").splitlines()[1:]]
        named = {digest for name, _, digest, *_ in lines if not name.startswith("sha256:")}
        for name, _, digest, *_ in lines:
            if digest not in named:
                self._need("images", "rm", "--sync", name)

    def _operator_manifests(self, name: str) -> str:
        """Build the manifests of one operator; kustomize wants relative paths, so all lie in one folder for that time."""
        with tempfile.TemporaryDirectory(dir=self.places.run) as folder:
            target = Path(folder) / "own"
            shutil.copytree(HERE / "manifests" / name, target)
            (Path(folder) / "modules").symlink_to(self.built / "modules")
            settings = target / "kustomization.yaml"
            settings.write_text(settings.read_text().replace("MODULES", "../modules").replace("TAG", self.tag))
            return self.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(target))


def build_all(progress: Progress) -> Path:
    """Install, fetch and build everything that a cluster needs and that is not there yet; return the image's OCI layout."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    packages.check_room(cache, ROOM_WARM if (image.images_folder(cache) / "layout").exists() else ROOM_COLD)
    packages.install_packages(progress)
    build_programs(cache, progress)
    return image.build_image(cache, progress)
