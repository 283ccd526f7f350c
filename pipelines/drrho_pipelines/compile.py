"""Pipelines as YAML, ready for upload: `compile_pipelines`."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from drrho_clip.errors import ConfigError, nearest
from drrho_components import IMAGE
from drrho_pipelines.local import make_folder

IMAGE_PATTERN = re.compile(r"[a-z0-9][\w.\-/:]*(@sha256:[0-9a-f]{64})?", re.ASCII)


def pipelines() -> dict[str, Any]:
    """The pipelines by name; kfp is imported here, since it takes more than a second."""
    from drrho_pipelines.comparison import comparison
    from drrho_pipelines.continual import continual
    from drrho_pipelines.data_efficiency import data_efficiency
    from drrho_pipelines.scaling import scaling
    from drrho_pipelines.steering import steering
    from drrho_pipelines.weak_to_strong import weak_to_strong

    studies = {
        "comparison": comparison,
        "data_efficiency": data_efficiency,
        "scaling": scaling,
        "weak_to_strong": weak_to_strong,
    }
    return {"steering": steering, "continual": continual, **studies}


def find_pipeline(name: str) -> Any:
    """The pipeline called `name`; ConfigError names the nearest ones."""
    known = pipelines()
    if name not in known:
        raise ConfigError(f"There is no pipeline '{name}'", fix=nearest(name, known))
    return known[name]


def compile_pipelines(out: Path, image: str = IMAGE, names: tuple[str, ...] = (), store: str = "") -> list[Path]:
    """Write one YAML per pipeline (all, or those in `names`) into `out`, each step in `image`; return the files.

    `store` is what the form shows as the store, where it is another than Kubeflow's own. The same arguments always give the same
    bytes. Raises ConfigError for an unusable image or folder.
    """
    if not IMAGE_PATTERN.fullmatch(image):
        raise ConfigError(f"'{image}' is no image", fix="Write it as registry/name:tag or registry/name@sha256:digest.")
    chosen = {name: find_pipeline(name) for name in names} or pipelines()
    make_folder(out)
    return [_compile(pipeline, out / f"{name}.yaml", image, store) for name, pipeline in chosen.items()]


def _compile(pipeline: Any, file: Path, image: str, store: str) -> Path:
    from kfp import compiler

    from drrho_pipelines.parameters import SHARED

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiler.Compiler().compile(pipeline, str(file))
    text = file.read_text(encoding="utf-8")
    # the image is a constant of the components, so that they can be used alone; here it is given once for all of them
    text = text.replace(f"image: {IMAGE}\n", f"image: {image}\n")
    file.write_text(text.replace(SHARED["store"], store or SHARED["store"]), encoding="utf-8")
    return file
