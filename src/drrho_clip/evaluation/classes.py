"""Class names and prompts: the dataset's own, ImageNet's, or those of a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from drrho_clip.errors import ConfigError, ObjectMissing
from drrho_clip.schema import Config
from drrho_clip.storage import open_store

if TYPE_CHECKING:
    from drrho_clip.data.manifest import Manifest

DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "a {}.")


class ClassList(Config):
    """The classes in label order, and the prompts whose {} is replaced by their names."""

    classnames: tuple[str, ...] = Field(min_length=1)
    templates: tuple[str, ...] = Field(DEFAULT_TEMPLATES, min_length=1)

    @field_validator("classnames")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if blank := [number for number, name in enumerate(names, 1) if not name.strip()]:
            raise ValueError(f"name {blank[0]} is blank: every class needs one")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated[:3])} given more than once")
        return names

    @field_validator("templates")
    @classmethod
    def _fillable(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
                raise ValueError(f"'{template}' needs {{}} once, where the class name goes, and no other brace")
        return templates


def class_list(classnames: str, manifest: Manifest) -> ClassList | str:
    """Return the classes that the setting `classnames` means, or the reason why there are none. Raises ConfigError."""
    if classnames == "none":
        return "not asked for"
    if classnames == "imagenet":
        return _imagenet()
    if classnames == "dataset":
        if not manifest.classnames:
            return f"dataset '{manifest.name}' has no class names"
        templates = manifest.templates or DEFAULT_TEMPLATES
        return ClassList.parse({"classnames": manifest.classnames, "templates": templates}, where=f"dataset '{manifest.name}'")
    return _from_file(classnames)


def classes_id(classnames: str, manifest: Manifest) -> str:
    """Identity of what `class_list` gives, without importing open_clip: an edited file or dataset has another."""
    if classnames in ("none", "imagenet"):
        return classnames
    classes = class_list(classnames, manifest)
    return "none" if isinstance(classes, str) else hashlib.sha256(classes.model_dump_json().encode()).hexdigest()


def _imagenet() -> ClassList:
    import open_clip

    names = tuple(open_clip.IMAGENET_CLASSNAMES)
    templates = tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    return ClassList.model_construct(classnames=names, templates=templates)  # two of its classes are both called "missile"


def _from_file(location: str) -> ClassList:
    parent, _, name = location.rpartition("/") if "://" in location else (str(Path(location).parent), "", Path(location).name)
    try:
        values = json.loads(open_store(parent).read(name))
    except ObjectMissing:
        raise ConfigError(
            "There is no such file of class names",
            where=location,
            fix="Set classnames to dataset, imagenet, none or a JSON file.",
        ) from None
    except ValueError as error:
        raise ConfigError(f"The file of class names is no JSON: {error}", where=location) from None
    if not isinstance(values, dict):
        values = {"classnames": values}
    return ClassList.parse(values, where=location)
