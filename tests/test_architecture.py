"""The shape of the code: which room may import which, how long things may get, and what must stay in one place."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "drrho_clip": ROOT / "src/drrho_clip",
    "drrho_components": ROOT / "components/drrho_components",
    "drrho_pipelines": ROOT / "pipelines/drrho_pipelines",
}
FLOORS = {
    "errors": 0, "schema": 0, "storage": 0, "observe": 0, "distributed": 0,
    "data": 1, "method": 1, "models": 1,
    "training": 2, "reference": 2, "evaluation": 2,
    "report": 3, "continual": 3, "verification": 3,
    "studies": 4,
    "config": 5, "doctor": 5,
    "cli": 6,
}  # fmt: skip
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def python_files(*roots: Path) -> list[Path]:
    return sorted(path for root in roots for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            return ".".join(parts).removesuffix(".__init__")
    raise AssertionError(f"{path} lies in none of the packages")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, inside functions and type checks too; `from a import b` gives a.b."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def floor(module: str) -> int:
    """Floor of a module of the library; its root (`drrho_clip`) holds only the version and lies under everything."""
    parts = module.split(".")
    return FLOORS.get(parts[1], -1) if len(parts) > 1 else -1


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


LIBRARY = python_files(PACKAGES["drrho_clip"])
CODE = python_files(*PACKAGES.values())
ALL_FILES = python_files(*PACKAGES.values(), ROOT / "tests", ROOT / "images")


def offences(files: list[Path], forbidden: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imports(path)
        if forbidden.match(module)
    ]


def test_library_knows_neither_kfp_nor_kubernetes_nor_the_packages_above():
    assert offences(LIBRARY, re.compile(r"(kfp|kubernetes|drrho_components|drrho_pipelines)(\.|$)")) == []


def test_components_do_not_know_the_pipelines():
    assert offences(python_files(PACKAGES["drrho_components"]), re.compile(r"drrho_pipelines(\.|$)")) == []


def test_every_room_has_a_floor():
    rooms = {room(module_name(path)) for path in LIBRARY} - {"drrho_clip"}
    assert rooms <= {f"drrho_clip.{name}" for name in FLOORS}


def test_rooms_import_only_from_floors_below():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in LIBRARY
        for line, module in imports(path)
        if module.startswith("drrho_clip.") and room(module) != room(module_name(path))
        # Floor 0 is the ground: its rooms may know each other.
        if not (floor(module) < floor(module_name(path)) or floor(module) == floor(module_name(path)) == 0)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    components = path.is_relative_to(PACKAGES["drrho_components"])  # there a step's settings, one a line, are the signature
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - (node.body[0].lineno if components else node.lineno) + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_settings_and_steps_import_without_torch():
    """Finding that a step is done must not cost the seconds that torch takes to import."""
    modules = [module_name(path) for path in LIBRARY if path.name in ("config.py", "step.py")]
    assert {"drrho_clip.data.config", "drrho_clip.training.config"} <= set(modules)
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'open_clip'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert result.returncode == 0, result.stderr


def test_imports_have_no_side_effects():
    """Importing any module starts no thread or process, touches no logger's handlers and writes nothing."""
    modules = [module_name(path) for path in CODE if path.name != "__main__.py"]
    code = (
        "import importlib, logging, sys, threading\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_metric_names_stand_in_one_place():
    names = re.compile(r"drrho_(?!clip\b|components\b|pipelines\b|cvar\b|distillation\b)[a-z_]+")
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} says {node.value!r}"
        for path in CODE
        if path != PACKAGES["drrho_clip"] / "observe/metrics.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and names.search(node.value)
    ]
    assert wrong == []


def tracked_text() -> Iterator[tuple[Path, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for path in (ROOT / name for name in listed if name):
        if path.suffix not in {".png", ".jpg", ".webp", ".tar", ".parquet", ".npz", ".safetensors"} and path.is_file():
            yield path, path.read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git clone")
def test_the_project_speaks_of_itself_alone():
    """No path of one machine and no package index: what is written here holds everywhere."""
    foreign = re.compile(
        "|".join(["/wo" + "rk/", "/ro" + "ot/", "/tmp/" + "lab", "shared/" + "notes", r"index-url\s+http", r"py" + r"pi\.org"])
    )
    wrong = [
        f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}: {match.group()}"
        for path, text in tracked_text()
        if (match := foreign.search(text))
    ]
    assert wrong == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
