"""Loading models: every form of a spec, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from open_clip import pretrained
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from drrho_clip.errors import ModelError
from drrho_clip.models import Encoder, create_model, load_model, refuse_mix
from drrho_clip.storage import Store

IMAGES = torch.linspace(0, 255, 2 * 3 * 32 * 32).to(torch.uint8).reshape(2, 3, 32, 32)


def save_safetensors(model: torch.nn.Module, path: Path) -> None:
    save_file(model.state_dict(), path)


def save_state_dict(model: torch.nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def save_training_checkpoint(model: torch.nn.Module, path: Path) -> None:
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path)


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_safetensors, "w.safetensors"), (save_state_dict, "w.pt"), (save_training_checkpoint, "epoch_3.pt")],
)
def test_weights_files(nano: torch.nn.Module, folder_store: Store, tmp_path: Path, save: Callable[..., None], name: str):
    save(nano, tmp_path / name)
    encoder = load_model(f"drrho-nano:{tmp_path / name}", folder_store)
    nano.eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(IMAGES), nano.encode_image(encoder.normalise(IMAGES), normalize=True))
    assert encoder.identity.weights_sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert not any(module.training for module in encoder.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_the_input_of_the_network_is_to_the_bit_what_open_clip_gives(
    nano: torch.nn.Module, folder_store: Store, tmp_path: Path, resize_mode: str
):
    save_safetensors(nano, tmp_path / "w.safetensors")
    changed = {"size": 32, "resize_mode": resize_mode, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "fill_color": 9}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": changed}))
    encoder = load_model(f"drrho-nano:{tmp_path / 'w.safetensors'}", folder_store)
    pictures = [
        Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, 41, 3), dtype=np.uint8)) for side in (32, 20, 50)
    ]
    expected = torch.stack([image_transform_v2(PreprocessCfg(**changed), is_train=False)(picture) for picture in pictures])
    assert torch.equal(encoder.normalise(torch.stack([encoder.preprocess(picture) for picture in pictures])), expected)


def test_weights_in_an_object_store(nano: torch.nn.Module, s3_store: Store, tmp_path: Path):
    save_safetensors(nano, tmp_path / "w.safetensors")
    s3_store.upload("weights/w.safetensors", tmp_path / "w.safetensors")
    spec = f"drrho-nano:{s3_store.uri_of('weights/w.safetensors')}"
    identity = load_model(spec, s3_store).identity
    assert identity.weights_sha256 == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert load_model(spec, s3_store).identity == identity


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("dump", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a state dict"])
def test_a_pickle_that_wants_to_run_code_is_refused(
    nano: torch.nn.Module, folder_store: Store, tmp_path: Path, dump: Callable[..., object], inside: bool
):
    pwned, path = tmp_path / "pwned", tmp_path / "w.pt"
    dump({"state_dict": nano.state_dict(), "extra": Evil(pwned)} if inside else Evil(pwned), path)
    with pytest.raises(ModelError, match="could run code"):
        load_model(f"drrho-nano:{path}", folder_store)
    assert not pwned.exists()


def test_torchscript_is_refused(folder_store: Store, tmp_path: Path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"TorchScript archive.*torch\.jit\.load"):
        load_model(f"drrho-nano:{tmp_path / 'w.pt'}", folder_store)


def test_weights_of_another_architecture_are_refused(folder_store: Store, tmp_path: Path):
    save_state_dict(create_model("drrho-tiny"), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="The weights do not fit the architecture"):
        load_model(f"drrho-nano:{tmp_path / 'w.pt'}", folder_store)


def cut(model: torch.nn.Module, path: Path) -> None:
    save_state_dict(model, path)
    path.write_bytes(path.read_bytes()[:-2000])


def cut_safetensors(model: torch.nn.Module, path: Path) -> None:
    save_safetensors(model, path)
    path.write_bytes(path.read_bytes()[:-2000])


BROKEN = {
    "text.pt": lambda _, path: path.write_text("hello"),
    "text.safetensors": lambda _, path: path.write_text("hello"),
    "empty.pt": lambda _, path: path.write_bytes(b""),
    "empty.safetensors": lambda _, path: path.write_bytes(b""),
    "nothing.pt": lambda _, path: torch.save({}, path),
    "list.pt": lambda _, path: torch.save([1, 2], path),
    "tensor.pt": lambda _, path: torch.save(torch.ones(3), path),
    "cut.pt": cut,
    "cut.safetensors": cut_safetensors,
    "folder.pt": lambda _, path: path.mkdir(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_files(nano: torch.nn.Module, folder_store: Store, tmp_path: Path, name: str):
    BROKEN[name](nano, tmp_path / name)
    with pytest.raises(ModelError, match=name):
        load_model(f"drrho-nano:{tmp_path / name}", folder_store)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-32", "'ViT-B-32' names no model.*run:NAME"),
        ("", "names no model"),
        ("run:", "names no model"),
        ("drrho-nano:/nowhere/w.pt", "There is no such weights file"),
        ("drrho-nan:/nowhere/w.pt", "Unknown architecture 'drrho-nan'.*drrho-nano"),
        ("ViT-B-33/openai", "Unknown architecture 'ViT-B-33'.*ViT-B-32"),
        ("ViT-B-32/opnai", "no pretrained weights 'opnai'.*openai"),
        ("drrho-nano/openai", "no pretrained weights 'openai'.*open_clip has none"),
    ],
)
def test_specs_that_name_nothing(folder_store: Store, spec: str, message: str):
    with pytest.raises(ModelError, match=message):
        load_model(spec, folder_store)


def test_offline_names_the_missing_file_and_where_to_put_it(folder_store: Store):
    with pytest.raises(ModelError) as caught:
        load_model("ViT-B-32/openai", folder_store)
    message = str(caught.value)
    assert "huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors" in message
    assert "hf download timm/vit_base_patch32_clip_224.openai" in message
    assert "'ViT-B-32-quickgelu:/path/to/open_clip_model.safetensors'" in message


def in_hub_cache(cache: Path, model: torch.nn.Module, repository: str) -> None:
    """Lay a file where the Hugging Face hub's cache has it after a download."""
    home = cache / "hub" / f"models--{repository.replace('/', '--')}"
    (home / "snapshots" / "abc").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    save_safetensors(model, home / "snapshots" / "abc" / "open_clip_model.safetensors")


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_tag_in_the_cache_needs_no_network_and_sets_activation_and_preprocessing(
    nano: torch.nn.Module, folder_store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, quick_gelu: bool
):
    config = pretrained._pcfg(hf_hub="someone/nano/", quick_gelu=quick_gelu, resize_mode="squash", mean=(0.0, 0.0, 0.0))
    monkeypatch.setitem(pretrained._PRETRAINED, "drrho-nano", {"toy": config})
    in_hub_cache(cache, nano, "someone/nano")
    with structlog.testing.capture_logs() as logs:
        identity = load_model("drrho-nano/toy", folder_store).identity
    assert identity.activation == ("quickgelu" if quick_gelu else "gelu")
    assert (identity.preprocessing.resize_mode, identity.preprocessing.mean) == ("squash", (0.0, 0.0, 0.0))
    assert [log["event"] for log in logs] == (["activation_follows_weights"] if quick_gelu else [])


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address and its folder."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/mlfoundations", folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("right_hash", [True, False])
def test_a_tag_with_an_address_is_fetched_whole_or_not_at_all(
    nano: torch.nn.Module,
    folder_store: Store,
    web: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    right_hash: bool,
):
    address, folder = web
    (folder / "mlfoundations").mkdir()
    save_state_dict(nano, folder / "w.pt")
    digest = hashlib.sha256((folder / "w.pt").read_bytes()).hexdigest()[:8] if right_hash else "00000000"
    (folder / "w.pt").rename(folder / "mlfoundations" / f"nano-{digest}.pt")
    monkeypatch.setitem(pretrained._PRETRAINED, "drrho-nano", {"toy": pretrained._pcfg(url=f"{address}/nano-{digest}.pt")})
    target = tmp_path / ".cache" / "clip" / f"nano-{digest}.pt"
    if right_hash:
        load_model("drrho-nano/toy", folder_store)
        (folder / "mlfoundations" / target.name).unlink()
        load_model("drrho-nano/toy", folder_store)  # from the cache
    else:
        with pytest.raises(ModelError, match=f"put it at {target}"):
            load_model("drrho-nano/toy", folder_store)
    assert [path.name for path in target.parent.iterdir()] == ([target.name] if right_hash else [])


def beside(path: Path, **changes: object) -> None:
    network = json.loads((Path(__file__).parents[2] / "src/drrho_clip/models/configs/drrho-nano.json").read_text())
    config = {"model_cfg": network | changes, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (path.parent / "open_clip_config.json").write_text(json.dumps(config))


def test_a_config_beside_the_weights_gives_the_preprocessing(nano: torch.nn.Module, folder_store: Store, tmp_path: Path):
    save_safetensors(nano, tmp_path / "w.safetensors")
    beside(tmp_path / "w.safetensors")
    assert load_model(f"drrho-nano:{tmp_path / 'w.safetensors'}", folder_store).identity.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("changes", [{"quick_gelu": True}, {"text_cfg": {"heads": 4}}], ids=["activation", "heads"])
def test_a_config_beside_the_weights_of_another_network(
    nano: torch.nn.Module, folder_store: Store, tmp_path: Path, changes: dict[str, object]
):
    save_safetensors(nano, tmp_path / "w.safetensors")
    beside(tmp_path / "w.safetensors", **changes)
    with pytest.raises(ModelError, match="describes another network than 'drrho-nano'"):
        load_model(f"drrho-nano:{tmp_path / 'w.safetensors'}", folder_store)


@pytest.mark.parametrize(("name", "warns"), [("openai-weights.pt", True), ("laion2b-s34b-b79k.pt", False), ("mine.pt", False)])
def test_a_name_that_disagrees_with_its_weights_is_warned_of(
    nano: torch.nn.Module, folder_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, warns: bool
):
    tags = {"openai": pretrained._pcfg(quick_gelu=True), "laion2b_s34b_b79k": pretrained._pcfg()}
    monkeypatch.setitem(pretrained._PRETRAINED, "drrho-nano", tags)
    save_state_dict(nano, tmp_path / name)
    with structlog.testing.capture_logs() as logs:
        load_model(f"drrho-nano:{tmp_path / name}", folder_store)
    warned = [log for log in logs if log["event"] == "activation_may_not_fit_weights"]
    assert [log["fix"] for log in warned] == (["weights called 'openai' need drrho-nano-quickgelu"] if warns else [])


@pytest.mark.parametrize("change", ["activation", "weights_sha256", "preprocessing", "precision"])
def test_a_mix_of_models_is_refused_with_both_values(exported: Store, change: str):
    identity = load_model("run:small", exported).identity
    value = identity.preprocessing.model_copy(update={"fill_color": 7}) if change == "preprocessing" else "something else"
    other = identity.model_copy(update={change: value, "spec": "run:other"})
    with pytest.raises(ModelError, match=rf"Reference 'r' is from the model 'run:other', which is not 'run:small'.*{change}"):
        refuse_mix(other, identity, what="Reference 'r'", fix="")
    refuse_mix(identity.model_copy(update={"spec": "run:other"}), identity, what="", fix="")


def test_bf16_is_recorded_and_close(exported: Store):
    exact, coarse = (load_model("run:small", exported, precision=precision) for precision in ("fp32", "bf16"))
    assert (exact.identity.precision, coarse.identity.precision) == ("fp32", "bf16")

    def features(encoder: Encoder) -> torch.Tensor:
        return encoder.encode_image(IMAGES)

    assert features(coarse).dtype == torch.float32
    assert not torch.equal(features(exact), features(coarse))
    torch.testing.assert_close(features(exact), features(coarse), atol=0.03, rtol=0)
    torch.testing.assert_close(features(coarse).norm(dim=1), torch.ones(2))
