"""Finished models by what the user calls them: an open_clip tag, a weights file, or a run of ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drrho_clip.errors import ModelError, ObjectMissing, nearest
from drrho_clip.models.architectures import activation_of, build, load_open_clip, model_config, named_tokenizer
from drrho_clip.models.checkpoints import CheckpointWeights, fetch_checkpoint
from drrho_clip.models.encoder import Encoder
from drrho_clip.models.export import CONFIG_NAME, WEIGHTS_NAME, fetch_run_export
from drrho_clip.models.identity import ModelIdentity, Precision, Preprocessing
from drrho_clip.models.weights import cache_folder, file_sha256, load_weights, pretrained_file
from drrho_clip.observe import get_logger
from drrho_clip.storage import open_store

if TYPE_CHECKING:
    from drrho_clip.storage import Store

FORMS = "Give 'ARCHITECTURE/tag' (ViT-B-32/openai), 'ARCHITECTURE:weights file' (a path or s3:// URI) or 'run:NAME'."


@dataclass(frozen=True)
class _Origin:
    """Where the parts of a model come from: open_clip's name of the network and its tokenizer, and a local weights file."""

    architecture: str
    network: str  # a built-in name, or "local-dir:<folder>"
    weights: Path
    hub_tokenizer: str = ""
    quick_gelu: bool = False  # beyond what the network's config says
    preprocess: dict[str, Any] = field(default_factory=dict)  # beyond open_clip's default


def load_model(spec: str, store: Store, *, precision: Precision = "fp32") -> Encoder:
    """Load a finished model for inference: eval mode, on the local device, with its own preprocessing and tokenizer.

    `spec` is "ViT-B-32/openai" (open_clip's pretrained tag), "ViT-B-32:/path/or/s3/weights.pt" (a weights file; an
    open_clip_config.json beside it gives the preprocessing) or "run:<name>" (the export of a run in `store`). Weights files
    are hashed and cannot run code. "bf16" computes under autocast; features are float32 either way. Raises ModelError.
    """
    return _load(spec, _origin(spec, store), precision)


def load_checkpoint(checkpoint: CheckpointWeights, store: Store, *, precision: Precision = "fp32") -> Encoder:
    """Load a checkpoint of a run for inference, as `load_model` does; its weights are fetched once and checked by their hash.

    Raises ModelError where they are damaged, or of another architecture than the run's.
    """
    network = model_config(checkpoint.architecture)
    origin = _Origin(
        checkpoint.architecture,
        checkpoint.architecture.replace("/", "-"),
        fetch_checkpoint(checkpoint, store),
        network["text_cfg"].get("hf_tokenizer_name", ""),
    )
    try:
        return _load(checkpoint.spec, origin, precision)
    except ModelError as error:
        raise ModelError(
            f"The checkpoint is of another architecture than its run's, {checkpoint.architecture}: {error.what}",
            where=store.uri_of(checkpoint.key),
            fix="Delete it, or set the architecture in the run's config.yaml to the one that it was trained with.",
        ) from None


def _load(spec: str, origin: _Origin, precision: Precision) -> Encoder:
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose, Normalize

    from drrho_clip.distributed import local_device

    model: Any = build(origin.network, force_quick_gelu=origin.quick_gelu, force_preprocess_cfg=origin.preprocess)
    load_weights(model, origin.weights)
    device = local_device()
    model.eval().requires_grad_(False).to(device)
    preprocess = model.visual.preprocess_cfg
    identity = ModelIdentity(
        spec=spec,
        architecture=origin.architecture,
        weights_sha256=file_sha256(origin.weights),
        activation=activation_of(model),
        preprocessing=Preprocessing.of(preprocess),
        precision=precision,
        dim=_dim(origin.network),
    )
    *fit, _, normalise = image_transform_v2(PreprocessCfg(**preprocess), is_train=False).transforms  # _: to a tensor
    assert isinstance(normalise, Normalize)
    return Encoder(identity, model, named_tokenizer(origin.network, origin.hub_tokenizer), Compose(fit), device)


def _origin(spec: str, store: Store) -> _Origin:
    kind, colon, rest = spec.partition(":")
    if kind == "run" and rest:
        return _from_run(rest, store)
    if colon and kind and rest:
        return _from_file(kind, rest)
    architecture, slash, tag = spec.rpartition("/")
    if slash and architecture and tag:
        return _from_tag(architecture, tag)
    raise ModelError(f"'{spec}' names no model", fix=FORMS)


def _dim(network: str) -> int:
    return int(load_open_clip().get_model_config(network)["embed_dim"])


def _from_run(run: str, store: Store) -> _Origin:
    folder = fetch_run_export(run, store)
    config = json.loads((folder / CONFIG_NAME).read_text())
    hub_tokenizer = config["model_cfg"]["text_cfg"].get("hf_tokenizer_name", "")
    return _Origin(config["architecture"], f"local-dir:{folder}", folder / WEIGHTS_NAME, hub_tokenizer)


def _from_tag(architecture: str, tag: str) -> _Origin:
    """The activation follows the weights: open_clip 3 only warns where the name and its tag disagree about quickgelu."""
    network = model_config(architecture)
    open_clip = load_open_clip()
    name = architecture.replace("/", "-")
    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(name)
        fix = nearest(tag, tags) if tags else f"open_clip has none. {FORMS}"
        raise ModelError(f"Architecture '{architecture}' has no pretrained weights '{tag}'", fix=fix)
    quick_gelu = bool(config.get("quick_gelu", False))
    if quick_gelu and not network.get("quick_gelu", False):
        get_logger().warning("activation_follows_weights", architecture=architecture, weights=tag, activation="quickgelu")
    keys = ("mean", "std", "interpolation", "resize_mode")
    return _Origin(
        architecture,
        name,
        pretrained_file(architecture, tag, config),
        network["text_cfg"].get("hf_tokenizer_name", ""),
        quick_gelu,
        {key: config[key] for key in keys if key in config},
    )


def _from_file(architecture: str, location: str) -> _Origin:
    network = model_config(architecture)
    weights, sidecar = _fetch_file(location)
    differing = _differing_keys(sidecar.get("model_cfg", network), network)
    if differing:
        raise ModelError(
            f"The {CONFIG_NAME} beside the weights describes another network than '{architecture}', in {', '.join(differing)}",
            where=location,
            fix="Name the architecture that the weights were trained with.",
        )
    _warn_about_quick_gelu(architecture, location, bool(network.get("quick_gelu", False)))
    hub_tokenizer = network["text_cfg"].get("hf_tokenizer_name", "")
    return _Origin(
        architecture, architecture.replace("/", "-"), weights, hub_tokenizer, preprocess=sidecar.get("preprocess_cfg", {})
    )


def _differing_keys(described: dict[str, Any], network: dict[str, Any]) -> list[str]:
    """Return the settings that both configs give, with different values; no activation given means gelu."""
    differing = [] if bool(described.get("quick_gelu")) == bool(network.get("quick_gelu")) else ["quick_gelu"]
    for section in ("vision_cfg", "text_cfg"):
        ours, theirs = network[section], described.get(section, {})
        shared = ours.keys() & theirs.keys() - {"hf_tokenizer_name"}
        differing += [f"{section}.{key}" for key in sorted(shared) if ours[key] != theirs[key]]
    return differing


def _fetch_file(location: str) -> tuple[Path, dict[str, Any]]:
    """Return the local file and the open_clip_config.json beside it ({} for none); remote ones are cached by URI and ETag."""
    if "://" in location:
        parent, _, name = location.rpartition("/")
    else:
        path = Path(location).expanduser().absolute()
        parent, name = str(path.parent), path.name
    store = open_store(parent)
    info = store.head(name)
    if info is None:
        raise ModelError("There is no such weights file", where=location, fix=f"Check the path. {FORMS}")
    try:
        sidecar = json.loads(store.read(CONFIG_NAME))
    except ObjectMissing:
        sidecar = {}
    except ValueError as error:
        raise ModelError(f"The {CONFIG_NAME} beside the weights cannot be read: {error}", where=parent) from None
    if "://" not in location:
        return Path(parent) / name, sidecar
    local = cache_folder(hashlib.sha256(f"{location} {info.etag}".encode()).hexdigest()) / name
    if not local.is_file():
        store.download(name, local, etag=info.etag)
    return local, sidecar


def _warn_about_quick_gelu(architecture: str, location: str, quick_gelu: bool) -> None:
    """Weights that carry the name of a known tag were trained with that tag's activation."""
    open_clip = load_open_clip()
    base = architecture.replace("/", "-").removesuffix("-quickgelu")
    words = "/".join(Path(location).parts[-2:]).lower().replace("-", "_")
    for tag in open_clip.list_pretrained_tags_by_model(base):
        needs = bool(open_clip.get_pretrained_cfg(base, tag).get("quick_gelu", False))
        if tag in words and needs != quick_gelu:
            get_logger().warning(
                "activation_may_not_fit_weights",
                weights=location,
                architecture=architecture,
                fix=f"weights called '{tag}' need {base}{'-quickgelu' if needs else ''}",
            )
