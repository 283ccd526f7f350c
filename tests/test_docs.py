"""The documents: settings as the code has them, links that lead somewhere, commands that exist."""

from __future__ import annotations

import re
import runpy
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from drrho_pipelines.cli import make_full_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def test_configuration_is_what_the_code_takes():
    generated = runpy.run_path(str(ROOT / "tools/configuration.py"))["page"]()
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == generated, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_commands_in_the_documents_exist():
    known = {" ".join(path) for path in commands(typer.main.get_command(make_full_app()))}
    named = {
        name
        for page in PAGES
        for name in re.findall(
            r"(?:^    |`)(?:\.venv/bin/)?drrho ((?:pipeline )?[a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert len(named) > 5
    assert named <= known


def test_folders_that_kubectl_applies_exist():
    named = {name for page in PAGES for name in re.findall(r"-k (k8s/[\w/-]+\w)(?![\w/.])", page.read_text(encoding="utf-8"))}
    assert {"k8s/overlays/standalone", "k8s/overlays/profile", "k8s/monitoring"} <= named
    assert [name for name in named if not (ROOT / name / "kustomization.yaml").is_file()] == []


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*path, name))


def test_messages_in_troubleshooting_are_those_of_the_code():
    code = "".join(
        path.read_text(encoding="utf-8") for root in ("src", "components", "pipelines") for path in (ROOT / root).rglob("*.py")
    )
    code += (ROOT / "tools/install.sh").read_text(encoding="utf-8")
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("troubleshooting.md", "studies.md"))
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith('| "')]
    pieces = [piece.strip() for row in rows for message in re.findall(r'"([^"]+)"', row) for piece in message.split("…")]
    assert len(pieces) > 30
    # Messages are wrapped over several string literals in the code.
    joined = re.sub(r'"\s*\n\s*f?"', "", code)
    assert [piece for piece in pieces if piece not in joined] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "import drrho_clip" in page.read_text() or "from drrho_clip" in page.read_text()]
)
def test_python_in_the_documents_runs(page: Path):
    """Indented blocks that import the library are whole programs."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    programs = [textwrap.dedent(block) for block in blocks if re.search(r"^    (import|from) .*drrho_clip", block, re.MULTILINE)]
    assert programs
    for program in programs:
        exec(compile(program, str(page), "exec"), {})
