from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from drrho_clip.cli.template import MADE, commented_yaml, guess_source
from drrho_clip.config import SECTIONS, RunConfig, load_config
from drrho_clip.errors import ConfigError


def switched_on(text: str) -> str:
    """The file of a user who takes the '# ' away before every setting."""
    return "\n".join(line.replace("  # ", "  ", 1) if line.startswith("  # ") else line for line in text.splitlines())


def test_every_setting_is_named_once_with_its_meaning():
    text = commented_yaml({"dataset": "pets", "train": {"batch_size": 64}})
    for section, config in SECTIONS.items():
        part = text.split(f"\n{section}:\n")[1].split("\n\n")[0]
        for key, field in config.model_fields.items():
            lines = [line for line in part.splitlines() if line.lstrip(" #").startswith(f"{key}:")]
            assert len(lines) == (f"{section}.{key}" not in MADE), (section, key)
            assert all((field.description or "") in line for line in lines)


def test_the_file_gives_what_was_set(tmp_path: Path):
    values = {"store": "s3://b/p", "dataset": "pets", "ingest": {"source": "folder", "path": "/a b: c"}, "train": {"seed": 3}}
    file = tmp_path / "my.yaml"
    file.write_text(commented_yaml(values))
    assert load_config(file) == RunConfig.parse(values)


def test_the_commented_values_are_the_defaults():
    values = yaml.load(switched_on(commented_yaml({})), Loader=yaml.BaseLoader)
    for section, config in SECTIONS.items():
        assert values[section]
        for key, text in values[section].items():
            default = config.model_fields[key].default
            value = text == "true" if isinstance(default, bool) else type(default)(text)
            assert value == default, (section, key)


@pytest.mark.parametrize(
    ("files", "path", "guess"),
    [
        (["a/1.jpg", "a/1.txt"], ".", {"source": "folder"}),
        (["cats/one.PNG", "cats/two.webp"], ".", {"source": "folder", "caption_template": "{words}"}),
        (["000.tar", "001.tar", "000.json"], ".", {"source": "shards"}),
        (["x.tar"], "x.tar", {"source": "shards"}),
        (["captions.tsv"], ".", {"source": "table"}),
        (["t.parquet"], "t.parquet", {"source": "table"}),
    ],
)
def test_source_is_guessed(tmp_path: Path, files: list[str], path: str, guess: dict[str, str]):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = guess_source(str(tmp_path / path))
    assert Path(found.pop("path")).exists()
    assert found == guess


@pytest.mark.parametrize("url", ["s3://bucket/shards/", "https://example.com/{000..010}.tar"])
def test_urls_are_tars(url: str):
    assert guess_source(url) == {"source": "shards", "path": url}


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "none", "nothing at this path"),
        (["notes.doc"], ".", "1 files, but no image"),
        (["notes.doc"], "notes.doc", "no image-text data"),
        (["a.csv", "b.csv"], ".", "no image, .tar or single table"),
    ],
)
def test_what_cannot_be_guessed_is_said(tmp_path: Path, files: list[str], path: str, message: str):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        guess_source(str(tmp_path / path))
