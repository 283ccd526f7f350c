"""The base of every config: frozen, strict about names, and clear about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from drrho_clip.errors import ConfigError, nearest


class Config(BaseModel):
    """A frozen model; `parse` turns pydantic's errors into one ConfigError that names the nearest known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Validate `values`; raise ConfigError that says which key is wrong, where, and what would be right."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _config_error(cls, error, where) from None


def _config_error(model: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    problems = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key '{path}'. " + nearest(str(item["loc"][-1]), _keys_at(model, item["loc"][:-1])))
        elif item["type"] == "missing":
            problems.append(f"'{path}' is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], Mapping) else f" (got {item['input']!r})"  # a whole section tells nothing
            problems.append(f"'{path}': {message}{got}" if path else message)
    return ConfigError("Invalid settings: " + "; ".join(problems), where=where)


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))  # a config, or a config or None
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), BaseModel)
    return list(model.model_fields)
