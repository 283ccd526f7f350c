"""Exports: what open_clip makes of them, and how they are fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drrho_clip.errors import ModelError
from drrho_clip.models import create_model, load_model, save_export
from drrho_clip.models.architectures import build
from drrho_clip.models.export import fetch_run_export
from drrho_clip.storage import Store, layout

TEXTS = ["a red fox", "two boats on a lake"]
FRESH = """
import open_clip, torch, sys
from PIL import Image
results = []
for folder in sys.argv[3:]:
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
    tokens = open_clip.get_tokenizer("local-dir:" + folder)(["a red fox", "two boats on a lake"])
    model.eval()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open(sys.argv[1]))[None], normalize=True)
        results.append({"image": image, "text": model.encode_text(tokens, normalize=True)})
torch.save(results, sys.argv[2])
"""


def picture(path: Path) -> Image.Image:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    image.save(path)
    return image


def test_open_clip_in_a_fresh_process_gives_the_same_features(folder_store: Store, tmp_path: Path):
    torch.manual_seed(3)
    models = {"gelu": create_model("drrho-nano"), "quickgelu": build("drrho-nano", force_quick_gelu=True)}
    for name, model in models.items():
        save_export(model, "drrho-nano", folder_store, layout.export(name))
    picture(tmp_path / "p.png")
    folders = [str(Path(folder_store.uri) / layout.export(name)) for name in models]
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path / "p.png"), str(tmp_path / "out.pt"), *folders], check=True)
    fresh = torch.load(tmp_path / "out.pt", weights_only=True)
    for (name, model), features in zip(models.items(), fresh, strict=True):
        encoder = load_model(f"run:{name}", folder_store)
        image = encoder.preprocess(Image.open(tmp_path / "p.png"))[None]
        assert encoder.identity.activation == name
        torch.testing.assert_close(encoder.encode_image(image), features["image"])
        torch.testing.assert_close(encoder.encode_text(encoder.tokenize(TEXTS)), features["text"])
        torch.testing.assert_close(
            model.eval().encode_image(encoder.normalise(image), normalize=True).detach(), features["image"]
        )


def test_the_same_model_is_not_written_twice(nano: torch.nn.Module, exported: Store):
    before = {info.key: info.etag for info in exported.list("runs/")}
    sha256 = save_export(nano, "drrho-nano", exported, layout.export("small"))
    assert {info.key: info.etag for info in exported.list("runs/")} == before
    assert load_model("run:small", exported).identity.weights_sha256 == sha256


def test_another_model_replaces_an_export_whole(exported: Store):
    torch.manual_seed(9)
    sha256 = save_export(create_model("drrho-nano"), "drrho-nano", exported, layout.export("small"))
    assert load_model("run:small", exported).identity.weights_sha256 == sha256


def test_a_half_written_export_is_none(exported: Store):
    exported.delete("runs/small/export/open_clip_config.json")
    with pytest.raises(ModelError, match="Run 'small' has no exported model"):
        load_model("run:small", exported)


def test_an_export_is_fetched_once(exported: Store, cache: Path):
    first = load_model("run:small", exported).identity
    Path(exported.uri, "runs/small/export/open_clip_model.safetensors").unlink()
    assert load_model("run:small", exported).identity == first


def test_several_that_start_together_with_an_empty_cache(exported: Store):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: fetch_run_export("small", exported), range(4)))
    assert len(folders) == 1
    assert sorted(path.name for path in folders.pop().iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weights_sha256": 3', b"\xff"])
def test_a_config_that_is_none_is_no_export(exported: Store, content: bytes):
    exported.write("runs/small/export/open_clip_config.json", content)
    with pytest.raises(ModelError, match="Run 'small' has no exported model"):
        load_model("run:small", exported)


def test_a_damaged_copy_in_the_cache_is_fetched_again(exported: Store, cache: Path):
    identity = load_model("run:small", exported).identity
    cached = cache / "drrho_clip" / identity.weights_sha256 / "open_clip_model.safetensors"
    cached.write_bytes(cached.read_bytes()[:1000])
    assert load_model("run:small", exported).identity == identity


def test_weights_that_are_not_those_of_the_config_are_refused(exported: Store):
    data = exported.read("runs/small/export/open_clip_model.safetensors")
    exported.write("runs/small/export/open_clip_model.safetensors", data[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="The export of run 'small' is damaged"):
        load_model("run:small", exported)


def test_an_unknown_run_names_those_with_an_export(exported: Store):
    exported.write("runs/begun/config.yaml", b"{}")
    with pytest.raises(ModelError, match=r"Run 'smal' has no exported model.*small") as caught:
        load_model("run:smal", exported)
    assert "begun" not in str(caught.value)


def test_no_cache_can_be_written(exported: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load_model("run:small", exported).identity.architecture == "drrho-nano"


def test_preprocessing_is_that_of_the_exported_model(folder_store: Store):
    model = build(
        "drrho-nano", force_preprocess_cfg={"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "resize_mode": "squash"}
    )
    save_export(model, "drrho-nano", folder_store, "runs/b/export")
    found = load_model("run:b", folder_store).identity.preprocessing
    assert (found.mean, found.interpolation, found.resize_mode) == ((0.1, 0.2, 0.3), "bilinear", "squash")
    written = json.loads(folder_store.read("runs/b/export/open_clip_config.json"))
    assert written["architecture"] == "drrho-nano"
