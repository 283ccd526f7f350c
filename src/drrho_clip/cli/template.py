"""The commented config that `drrho init` writes: every setting with its default and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from drrho_clip.config import HANDED_DOWN, SECTIONS, RunConfig
from drrho_clip.errors import ConfigError
from drrho_clip.schema import Config

TABLES = (".csv", ".tsv", ".parquet")
SCANNED_FILES = 20_000
"""How many files of a folder are looked at to guess its kind."""

HEADER = """\
# Settings of one run of drrho. Lines that are commented out show the default.
# The names of the dataset, the run and the reference are written once and handed down to the steps.
#   drrho pipeline run --config {file}      runs everything; `drrho ingest --config {file}` and so on one step
#   drrho doctor --config {file}            looks whether everything that this needs is there
"""


def guess_source(path: str) -> dict[str, Any]:
    """The settings of `ingest` for the data at `path`: a folder of images, tars, or a table; ConfigError where it is none."""
    if path.startswith(("s3://", "http://", "https://")):
        return {"source": "shards", "path": path}
    found = Path(path).expanduser()
    text = str(found.resolve())
    if found.is_file():
        if found.suffix.lower() in TABLES:
            return {"source": "table", "path": text}
        if found.suffix.lower() == ".tar":
            return {"source": "shards", "path": text}
        raise ConfigError(
            "This file is no image-text data",
            where=text,
            fix="Give a folder of images, .tar shards, or a .csv, .tsv or .parquet table.",
        )
    if not found.is_dir():
        raise ConfigError("There is nothing at this path", where=str(found), fix="Give the folder, tars or table with your data.")
    return _guess_folder(found, text)


def _guess_folder(folder: Path, text: str) -> dict[str, Any]:
    from itertools import islice

    from drrho_clip.data.sources.fields import IMAGE_ENDINGS

    files = [item for item in islice(folder.rglob("*"), SCANNED_FILES) if item.is_file()]
    endings = {item.suffix.lower() for item in files}
    if ".tar" in endings:
        return {"source": "shards", "path": text}
    images = {item.with_suffix("") for item in files if item.suffix.lower() in IMAGE_ENDINGS}
    if images:
        captions = {item.with_suffix("") for item in files if item.suffix.lower() in (".txt", ".json")}
        template = {} if images & captions else {"caption_template": "{words}"}
        return {"source": "folder", "path": text, **template}
    tables = sorted(item for item in files if item.suffix.lower() in TABLES)
    if len(tables) == 1:
        return {"source": "table", "path": str(tables[0].resolve())}
    raise ConfigError(
        f"{len(files)} files, but no image, .tar or single table among them",
        where=text,
        fix="Give the folder that holds the data.",
    )


def commented_yaml(values: Mapping[str, Any], file: str = "my.yaml") -> str:
    """YAML with every setting and its description: those in `values` (nested) are set, the others are comments."""
    lines = [HEADER.format(file=file)]
    for name, field in RunConfig.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"{name}:", *_section(name, SECTIONS[name], values.get(name, {}))]
        else:
            lines.append(_line("", name, field, values.get(name), set_anyway=True))
    return "\n".join(lines) + "\n"


MADE = {"train.reference", "report.split"} | {target for targets in HANDED_DOWN.values() for target in targets}
"""Settings that follow from others, and are only in the way here."""


def _section(name: str, config: type[Config], values: Mapping[str, Any]) -> list[str]:
    return [
        _line("  ", key, field, values.get(key))
        for key, field in config.model_fields.items()
        if f"{name}.{key}" not in MADE or key in values
    ]


def _line(indent: str, key: str, field: FieldInfo, value: Any, *, set_anyway: bool = False) -> str:
    given = value is not None or set_anyway
    text = f"{indent}{'' if given else '# '}{key}: {_scalar(field.default if value is None else value)}"
    meaning = "; ".join(part for part in (_choices(field), field.description) if part)
    return f"{text:<44}  # {meaning}" if meaning else text


def _scalar(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n...\n").strip()


def _choices(field: FieldInfo) -> str:
    return ", ".join(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else ""
