"""Architectures by name: every one of open_clip's, and our small ones for CPUs (configs/*.json)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drrho_clip.errors import ModelError, nearest
from drrho_clip.models.identity import Activation, Preprocessing
from drrho_clip.schema import Config

if TYPE_CHECKING:
    import torch

CONFIGS = Path(__file__).parent / "configs"
DEFAULT_CONTEXT_LENGTH = 77  # open_clip's, for text configs that do not say

Tokenizer = Callable[[list[str]], "torch.Tensor"]


class ArchitectureInfo(Config):
    """What training needs to know of an architecture before its weights exist."""

    name: str
    embed_dim: int
    context_length: int
    preprocessing: Preprocessing

    @property
    def image_size(self) -> int:
        """Height and width of the input, in pixels."""
        return self.preprocessing.size[0]

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the channels R, G, B, subtracted from pixels in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the channels R, G, B, by which they are divided."""
        return self.preprocessing.std


def load_open_clip() -> Any:
    """Import open_clip and make our architectures known to it."""
    import open_clip

    if any(config.stem not in open_clip.list_models() for config in CONFIGS.glob("*.json")):
        open_clip.add_model_config(CONFIGS)
    return open_clip


def known_architectures() -> list[str]:
    """Return every architecture that `create_model` can build."""
    return list(load_open_clip().list_models())


def model_config(architecture: str) -> dict[str, Any]:
    """Return open_clip's config of `architecture`; ModelError with the nearest names if there is none."""
    config = load_open_clip().get_model_config(_clean(architecture))
    if config is None:
        raise ModelError(f"Unknown architecture '{architecture}'", fix=nearest(architecture, known_architectures()))
    return dict(config)


def check_architecture(architecture: str) -> None:
    """Raise ModelError unless `architecture` can be built; does not import open_clip for our own."""
    if not (CONFIGS / f"{architecture}.json").is_file():
        model_config(architecture)


def architecture_info(architecture: str) -> ArchitectureInfo:
    """Return sizes and preprocessing of an architecture without building it; the preprocessing is open_clip's default."""
    config = model_config(architecture)
    from open_clip.transform import PreprocessCfg

    return ArchitectureInfo(
        name=architecture,
        embed_dim=config["embed_dim"],
        context_length=config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH),
        preprocessing=Preprocessing.of(vars(PreprocessCfg(size=config["vision_cfg"].get("image_size", 224)))),
    )


def create_model(architecture: str, *, device: str = "cpu") -> torch.nn.Module:
    """Build an untrained model with random weights (from torch's seed), fp32, in train mode; on "meta" it has shapes alone."""
    import torch

    model_config(architecture)
    with torch.device(device):
        return build(_clean(architecture), device=device)


def build(name: str, **overrides: Any) -> torch.nn.Module:
    """Build the network of open_clip's `name` (or "local-dir:<folder>") without weights; never calls the hub for them."""
    open_clip = load_open_clip()
    with _quiet():
        try:
            model: torch.nn.Module = open_clip.create_model(name, load_weights=False, pretrained_text=False, **overrides)
        except (ImportError, OSError, RuntimeError, ValueError, TypeError) as error:
            raise ModelError(f"The network cannot be built: {error}", where=name) from error
    return model


def parameter_count(architecture: str) -> int:
    """Parameters of both towers together, counted without taking memory for them."""
    import torch

    model_config(architecture)
    with torch.device("meta"):
        model = build(_clean(architecture), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


def tokenizer(architecture: str) -> Tokenizer:
    """Return the tokenizer: list of n texts -> int64 tokens [n, context_length]; texts too long are cut.

    Most architectures use CLIP's own, which comes with open_clip. Those with a tokenizer of the Hugging Face hub take it from
    the local cache first; ModelError says what is missing where it is not there and cannot be fetched.
    """
    text = model_config(architecture)["text_cfg"]
    return named_tokenizer(_clean(architecture), text.get("hf_tokenizer_name", ""))


def named_tokenizer(name: str, hub_name: str) -> Tokenizer:
    """Return open_clip's tokenizer for `name`; `hub_name` is the hub repository that it comes from, "" for CLIP's own."""
    open_clip = load_open_clip()
    options: tuple[dict[str, Any], ...] = ({"local_files_only": True}, {}) if hub_name else ({},)
    try:
        with _quiet():
            return _first_working(lambda keywords: open_clip.get_tokenizer(name, **keywords), options)
    except ImportError as error:
        raise ModelError(
            f"The tokenizer '{hub_name}' needs the package {error.name}", where=name, fix=f"Run `pip install {error.name}`."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The tokenizer '{hub_name}' is neither in the local cache nor can it be fetched",
            where=name,
            fix=f"On a machine with access run `hf download {hub_name} --include 'tokenizer*' '*.model' '*.json'` and copy "
            "~/.cache/huggingface (or the folder that HF_HOME names) to this one.",
        ) from error


def _first_working(make: Callable[[dict[str, Any]], Tokenizer], options: tuple[dict[str, Any], ...]) -> Tokenizer:
    """Try all options in turn; the error of the last one is raised."""
    for keywords in options[:-1]:
        try:
            return make(keywords)
        except (OSError, ValueError):
            continue
    return make(options[-1])


def activation_of(model: torch.nn.Module) -> Activation:
    """Return which activation the built network really uses."""
    from open_clip.transformer import QuickGELU

    return "quickgelu" if any(isinstance(module, QuickGELU) for module in model.modules()) else "gelu"


def _clean(architecture: str) -> str:
    return architecture.replace("/", "-")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's records from the root logger, where the first of them would also install a handler for everybody."""

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addFilter(drop)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(drop)
