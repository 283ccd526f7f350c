"""What is shipped: the wheel, the constraints, the image and the commands of a fresh clone."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# What an outer `make test` hands down, which would speak in the inner calls.
OUTER_MAKE = {
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "STORE",
    "FOLDER",
    "DATA",
    "ARGS",
    "IMAGE",
    "BASE",
    "EXTRAS",
    "PYTHON",
}


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in OUTER_MAKE} | variables
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    result = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out))
    assert result.returncode == 0, result.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def members(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


class TestWheel:
    def test_brings_three_packages_and_nothing_else(self, members):
        info = f"drrho_clip-{PROJECT['version']}.dist-info"
        assert {name.split("/")[0] for name in members} == {"drrho_clip", "drrho_components", "drrho_pipelines", info}

    def test_brings_every_file_of_the_packages(self, members):
        """Code, templates, model configs, the demo's settings and the typing marker."""
        for folder in (ROOT / "src", ROOT / "components", ROOT / "pipelines"):
            files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert {name for name in files if "__pycache__" not in name} <= members

    def test_brings_data_beside_the_code(self, members):
        assert "drrho_clip/py.typed" in members
        assert any(re.fullmatch(r"drrho_clip/models/configs/.+\.json", name) for name in members)
        assert any(re.fullmatch(r"drrho_clip/report/templates/.+", name) for name in members)
        assert any(name.endswith("dist-info/licenses/LICENSE") for name in members)

    def test_installs_into_an_empty_environment(self, wheel, tmp_path):
        """With this environment's libraries behind it, so that nothing is fetched."""
        python = tmp_path / "venv/bin/python"
        assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").returncode == 0
        installed = run(sys.executable, "-m", "uv", "pip", "install", "--python", python, "--no-deps", "--offline", wheel)
        assert installed.returncode == 0, installed.stderr
        site = next((tmp_path / "venv/lib").glob("python3*/site-packages"))
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))

        where = run(
            python, "-c", "import drrho_clip, drrho_components, drrho_pipelines; print(drrho_pipelines.__file__)", cwd=tmp_path
        )
        assert where.stdout.startswith(str(site)), where.stderr
        version = run(python.parent / "drrho", "version", cwd=tmp_path)
        assert PROJECT["version"] in version.stdout, version.stderr


class TestConstraints:
    LINES = tuple(
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    )

    def test_name_exact_versions_and_no_address(self):
        assert [line for line in self.LINES if not re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; .+)?", line)] == []

    def test_cover_every_dependency_and_fit_its_range(self):
        pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in map(Requirement, self.LINES)}
        wanted = [*PROJECT["dependencies"], *(item for extra in PROJECT["optional-dependencies"].values() for item in extra)]
        for requirement in map(Requirement, wanted):
            if requirement.name != PROJECT["name"]:
                version = pinned.get(canonicalize_name(requirement.name))
                assert version is not None, f"{requirement.name} is not in constraints.txt: run `make constraints`"
                assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}"


class TestVersion:
    def test_stands_in_one_place(self):
        assert importlib.metadata.version(PROJECT["name"]) == PROJECT["version"]
        shown = run("make", "--eval", "show: ; @echo $(VERSION)", "show")
        assert shown.stdout.strip() == PROJECT["version"], shown.stderr


class TestMake:
    def test_help_lists_every_target_that_explains_itself(self):
        result = run("make", "help")
        assert result.returncode == 0, result.stderr
        assert {"make demo", "make test", "make lint", "make clean"} <= {
            line[2:].split("  ")[0] for line in result.stdout.splitlines()
        }

    @pytest.fixture
    def bare(self, tmp_path) -> Path:
        """A folder with a space in its name that holds what installing needs, and no environment."""
        folder = tmp_path / "a clone"
        folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "tools", folder / "tools")
        return folder

    @staticmethod
    def program(folder: Path, name: str, body: str) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def test_old_python_is_named_in_one_line(self, bare, tmp_path):
        old = self.program(tmp_path / "bin", "python3", 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac')
        result = run("make", "install", f"PYTHON={old}", cwd=bare)
        assert result.returncode == 2
        message, *rest = result.stderr.splitlines()
        assert "Python 3.11 or newer is needed" in message
        assert "Python 3.9.2" in message
        assert all(line.startswith("make: ***") for line in rest)

    def test_missing_venv_module_is_explained(self, bare, tmp_path):
        broken = self.program(tmp_path / "bin", "python3", f'case "$2" in venv) exit 1;; esac; exec "{sys.executable}" "$@"')
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in ("make", "sh", "sed", "touch", "mkdir"):
            (tools / name).symlink_to(shutil.which(name))
        result = run("make", "install", f"PYTHON={broken}", cwd=bare, PATH=str(tools))
        assert result.returncode == 2
        assert "apt install python3-venv" in result.stderr
        assert not (bare / ".venv/.installed").exists()

    def test_demo_passes_its_folders_on_whole(self, bare, tmp_path):
        """Values with spaces reach the command as one argument; the second call installs nothing."""
        self.program(bare / ".venv", "unused", "")
        self.program(bare / ".venv/bin", "drrho", 'for argument in "$@"; do echo "[$argument]"; done')
        (bare / ".venv/.installed").touch()
        result = run("make", "demo", "STORE=/some where/store", "FOLDER=my demo", cwd=bare)
        assert result.stdout.split("\n")[:-1] == ["[demo]", "[--folder]", "[my demo]", "[--store]", "[/some where/store]"]
        assert run("make", "demo", cwd=bare).stdout.split("\n")[:-1] == ["[demo]", "[--folder]", "[demo]"]

    def test_scripts_are_plain_shell(self):
        """`sh` is dash on Debian and Ubuntu."""
        for script in sorted([*ROOT.glob("tools/*.sh"), *ROOT.glob("examples/*/fetch.sh")]):
            assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
            assert os.access(script, os.X_OK)
            assert run("sh", "-n", script).returncode == 0
            assert not re.search(r"\[\[|\bfunction \b|<<<|\blocal ", script.read_text(encoding="utf-8"))


class TestClusterTests:
    """They need root, programs that take long to build, and a cluster: only who asks for them gets them."""

    ONLY_THEM = ("-p", "no:cacheprovider", "--collect-only", "--quiet", "--ignore-glob=tests/[!c]*", "--ignore=tests/cli")

    def collect(self, *arguments: str) -> str:
        return run(sys.executable, "-m", "pytest", *self.ONLY_THEM, "--ignore=tests/components", *arguments).stdout

    def test_are_left_out_of_the_suite_which_says_so(self):
        shown = self.collect("tests")
        assert re.search(r"^\d+ tests on a real cluster were left out: `make test-cluster` runs them", shown, re.MULTILINE), shown
        assert "tests/cluster/" not in shown

    @pytest.mark.parametrize("arguments", [("tests/cluster",), ("-m", "cluster", "tests")], ids=" ".join)
    def test_are_there_for_who_asks(self, arguments):
        assert "tests/cluster/test_node.py::test_node_is_ready" in self.collect(*arguments)


class TestImage:
    INSTRUCTIONS = tuple(
        line.strip()
        for line in re.sub(r"\\\n", " ", (ROOT / "images/Dockerfile").read_text(encoding="utf-8")).splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    )

    def arguments(self, instruction: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.INSTRUCTIONS if line.startswith(f"{instruction} ")]

    def test_every_stage_starts_from_the_pinned_base(self):
        assert {line.split()[0] for line in self.arguments("FROM")} == {"${BASE}"}
        assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", self.arguments("ARG")[0])

    def test_ends_as_a_numeric_user_that_is_not_root(self):
        user, _, group = self.arguments("USER")[-1].partition(":")
        assert int(user) > 0
        assert group.isdigit()
        assert self.INSTRUCTIONS[-1].startswith("USER ")

    def test_fetches_nothing_but_packages_and_sets_no_entrypoint(self):
        assert self.arguments("ADD") == []
        assert self.arguments("ENTRYPOINT") == []
        assert not re.search(r"https?://|curl|wget|apt-get", "\n".join(self.INSTRUCTIONS))

    def test_copies_only_what_the_build_context_holds(self):
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copied = {name for line in self.arguments("COPY") if "--from" not in line for name in line.split()[:-1]}
        assert copied <= allowed
        assert all((ROOT / name).exists() for name in allowed)

    def test_label_takes_the_version_that_make_reads(self):
        assert any('version="${VERSION}"' in line for line in self.arguments("LABEL"))
        planned = run("make", "--dry-run", "image")
        assert f"VERSION={PROJECT['version']}" in planned.stdout

    @pytest.mark.parametrize("extras", ["", "[demo]", "demo"])
    def test_requirements_are_those_of_the_project(self, extras):
        result = run(sys.executable, "images/requirements.py", extras)
        expected = PROJECT["dependencies"] + (PROJECT["optional-dependencies"]["demo"] if extras else [])
        assert result.stdout.splitlines() == expected

    def test_unknown_extra_is_refused(self):
        result = run(sys.executable, "images/requirements.py", "[dmeo]")
        assert result.returncode != 0
        assert "no extra 'dmeo'" in result.stderr
