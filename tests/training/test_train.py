"""The step `train` on a small generated dataset, with real processes."""

import io
import json
import math
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import Any

import pyarrow.parquet as pq
import pytest
import structlog

from drrho_clip.data.features import FeatureReader
from drrho_clip.data.images import BadImage, decode_image
from drrho_clip.data.manifest import load_manifest
from drrho_clip.data.order import SampleOrder
from drrho_clip.data.reader import SampleReader
from drrho_clip.data.reference_manifest import load_reference_manifest
from drrho_clip.errors import ConfigError, DrrhoError, TrainingError
from drrho_clip.method import METHODS
from drrho_clip.method.advice import recommend
from drrho_clip.models import load_model
from drrho_clip.storage import layout
from drrho_clip.training import TrainConfig, read_config, train
from drrho_clip.training.__main__ import main
from drrho_clip.training.checkpoint import Checkpoints
from drrho_clip.training.step import FREE, _free_arguments, find_summary, free_settings, random_pairs

SETTINGS = {
    "dataset": "scenes",
    "method": "drrho",
    "reference": "ref",
    "architecture": "drrho-nano",
    "batch_size": 32,
    "samples": 32 * 12,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "temperature": 0.1,
    "augmentation": "shift",
    "log_steps": 3,
    "checkpoint_steps": 5,
}


def settings(run: str = "run", **changed) -> TrainConfig:
    return TrainConfig.parse({"run": run, **SETTINGS, **changed})


def records(store, run: str = "run") -> list[dict[str, float]]:
    return [json.loads(line) for line in store.read(layout.run_metrics(run)).decode().splitlines()]


def in_process(arguments: list[str]) -> None:
    """Where the process itself is not what is tested: saves the seconds that it takes to start."""
    assert main(arguments) == 0


def never(_arguments: list[str]) -> None:
    raise AssertionError("nothing should have been started")


def test_a_run_leaves_all_that_is_promised(scenes_store):
    summary = train(settings(), scenes_store)
    assert (summary.steps, summary.samples_seen, summary.method, summary.dataset_version) == (12, 384, "drrho", 1)
    rows = records(scenes_store)
    assert [row["step"] for row in rows] == [3, 5, 6, 9, 10, 12]
    for key in (
        "loss",
        "loss_part.image",
        "gamma",
        "temperature",
        "grad_norm",
        "data_wait_seconds",
        "weight_effective_size.text",
    ):
        assert all(math.isfinite(row[key]) for row in rows), key
    for side in ("image", "text"):
        assert all(row[f"pairwise_loss_variance.{side}.{of}"] > 0 for row in rows for of in ("target", "rho"))
    weights = pq.read_table(io.BytesIO(scenes_store.read(layout.run_weights("run")))).to_pydict()
    seen = len(weights["index"])
    assert seen == len(set(weights["index"])) > 300
    assert all(0 <= weight <= 1 for weight in weights["image_weight"] + weights["text_weight"])
    assert all(map(math.isfinite, weights["loss"]))
    reader = SampleReader(scenes_store, load_manifest(scenes_store, "scenes"))
    assert all(reader.get(index).meta["key"] == key for index, key in zip(weights["index"], weights["key"], strict=True))
    encoder = load_model("run:run", scenes_store)
    assert encoder.model.logit_scale.exp().item() == pytest.approx(10.0)
    assert Checkpoints(scenes_store, "run", 2).steps() == [12, 10]


def test_a_run_can_do_without_weights(scenes_store):
    train(settings(record_weights="no", samples=32 * 2, warmup_steps=0), scenes_store, launch=in_process)
    assert scenes_store.head(layout.run_weights("run")) is None
    assert find_summary("run", scenes_store) is not None


def test_a_finished_run_is_found_and_not_trained_again(scenes_store):
    first = train(settings(), scenes_store, launch=in_process)
    assert train(settings(workers=3, log_steps=50), scenes_store, launch=never) == first


def test_automatic_settings_are_read_off_the_reference_and_recorded(scenes_store):
    asked = settings(temperature="auto", eps="auto", samples=32 * 3)
    done = train(asked, scenes_store, launch=in_process)
    used = read_config("run", scenes_store)
    index = random_pairs(load_manifest(scenes_store, "scenes"), "train", 32)
    features = FeatureReader(scenes_store, "scenes", "ref", load_manifest(scenes_store, "scenes")).get(index)
    advice = recommend(features, 32)
    assert used.temperature == pytest.approx(advice.temperature, rel=6e-3)
    assert used.eps == pytest.approx(advice.eps, rel=6e-3)
    assert done.temperature == pytest.approx(used.temperature)
    assert train(asked, scenes_store, launch=never) == done  # what was chosen is kept


def chosen(config: TrainConfig, store) -> tuple[dict[str, Any], TrainConfig]:
    """The line `settings_chosen` of the log, and the settings that training was then started with."""

    def started(_arguments: list[str]) -> None:
        raise TrainingError("that is enough")

    with structlog.testing.capture_logs() as lines, pytest.raises(TrainingError, match="enough"):
        train(config, store, launch=started)
    (line,) = (line for line in lines if line["event"] == "settings_chosen")
    return line, read_config(config.run, store)


def test_the_log_says_which_settings_were_chosen_and_why(scenes_store):
    line, used = chosen(settings(temperature="auto", eps="auto"), scenes_store)
    assert (line["run"], line["temperature"], line["eps"], line["kept"]) == ("run", used.temperature, used.eps, [])
    assert (line["reference"], line["pairs"]) == ("ref", 361)
    of_temperature, of_eps = line["why"]
    spread = used.temperature * math.sqrt(2 * math.log(32)) / 1.25
    found = re.fullmatch(r"temperature (\S+) = 1\.25 x (\S+) / sqrt\(2 ln 32\): \2 is the spread of .*", of_temperature)
    assert found, of_temperature
    assert (float(found[1]), float(found[2])) == (used.temperature, pytest.approx(spread, rel=1e-2))
    assert of_eps.startswith(f"eps {used.eps:.3g} = exp(-{found[2]} / {found[1]}): a pair is down to half")


def test_what_was_set_is_kept_and_not_said_to_be_chosen(scenes_store):
    line, used = chosen(settings(temperature=0.2, eps="auto"), scenes_store)
    assert (used.temperature, used.eps) == (0.2, line["eps"])
    assert "temperature" not in line
    assert line["why"][0].partition(":")[0].endswith(" / 0.2)")  # eps belongs to the temperature that is used
    assert len(line["why"]) == 1


def test_automatic_eps_belongs_to_steered_losses(scenes_store):
    line, used = chosen(settings(method="fastclip", temperature="auto", eps="auto"), scenes_store)
    assert (used.temperature > 0, used.eps, used.objective().eps) == (True, -1.0, 1e-14)
    assert "eps" not in line
    assert line["kept"] == ["eps"]


def test_automatic_settings_need_a_reference():
    with pytest.raises(ConfigError, match="temperature: auto is read off a reference's features"):
        settings(method="openclip", reference="", temperature="auto")


def test_a_run_does_not_go_on_with_other_settings(scenes_store):
    train(settings(), scenes_store, launch=in_process)
    with pytest.raises(DrrhoError, match=r"temperature: 0\.1 there, 0.2 here") as caught:
        train(settings(temperature=0.2), scenes_store, launch=never)
    assert "another run name" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"batch_size": 512, "samples": 5120}, "0 steps an epoch from"),
        ({"samples": 31}, "less than one batch"),
        ({"warmup_steps": 12}, "warm-up of 12 steps"),
        ({"reference": "nobody"}, "No reference 'nobody'"),
        ({"dataset": "nothing"}, "nothing"),
        ({"split": "trian"}, "trian"),
        ({"lanes": 5}, "5 lanes do not divide"),
        ({"architecture": "drrho-smal"}, "Did you mean drrho-small"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(scenes_store, changed, expected):
    with pytest.raises(DrrhoError, match=expected):
        train(settings(**changed), scenes_store, launch=never)
    assert scenes_store.head(layout.run_config("run")) is None


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(scenes_store):
    with pytest.raises(DrrhoError, match="not finite at step") as caught:
        train(settings(method="openclip", learning_rate=1e30, log_steps=1, warmup_steps=0, checkpoint_steps=1), scenes_store)
    assert "step-00000001" in str(caught.value) or "none was written" in str(caught.value)
    assert find_summary("run", scenes_store) is None
    assert records(scenes_store)[-1]["nonfinite_steps_total"] == 1


@pytest.mark.parametrize("method", [method for method in METHODS if method != "drrho"])
def test_the_other_methods_train_too(scenes_store, method):
    reference = "" if method == "openclip" else "ref"
    train(settings(method=method, reference=reference), scenes_store, launch=in_process)
    last = records(scenes_store)[-1]
    assert ("pairwise_loss_variance.image.rho" in last) is bool(reference)
    assert ("gamma" in last) is method.startswith(("fastclip", "drrho_distillation"))
    assert ("loss_part.distillation" in last) is method.endswith("distillation")


def test_a_batch_is_chosen_from_samples_that_the_data_must_have(scenes_store):
    with pytest.raises(DrrhoError, match="A batch of 100 is chosen from 500 samples, and the split has 3"):
        train(settings(method="jest", batch_size=100, samples=1000), scenes_store, launch=never)
    assert scenes_store.head(layout.run_config("run")) is None


def test_distillation_takes_the_temperature_that_the_reference_was_trained_to(scenes_store):
    own = 1 / load_reference_manifest(scenes_store, "scenes", "ref").identity.logit_scale
    for run, changed in {
        "own": {},
        "named": {"distillation_temperature": own},
        "other": {"distillation_temperature": 1.0},
    }.items():
        train(settings(run, method="distillation", **changed), scenes_store, launch=in_process)
    own_loss, named, other = (records(scenes_store, run)[-1]["loss_part.distillation"] for run in ("own", "named", "other"))
    assert own_loss == pytest.approx(named, rel=1e-6)
    assert own_loss != pytest.approx(other, rel=1e-3)


def test_a_batch_in_parts_trains_the_same_model(scenes_store):
    for run, parts in (("whole", 1), ("parts", 3)):
        train(settings(run, accumulate=parts), scenes_store, launch=in_process)
    for whole, parts in zip(records(scenes_store, "whole"), records(scenes_store, "parts"), strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("changed", [{"workers": 2}, {"augmentation": "crop"}, {"augmentation": "none"}, {"gradient_clip": 0.01}])
def test_options_are_used(scenes_store, changed):
    train(settings("plain", method="openclip"), scenes_store, launch=in_process)
    train(settings("other", method="openclip", **changed), scenes_store, launch=in_process)
    plain, other = (records(scenes_store, run)[-1]["loss"] for run in ("plain", "other"))
    assert (plain == other) is ("workers" in changed)


def test_bf16_is_close_to_float32(scenes_store):
    for precision in ("fp32", "bf16"):
        train(settings(precision, precision=precision, samples=32 * 4), scenes_store, launch=in_process)
    full, half = (records(scenes_store, run)[-1]["loss"] for run in ("fp32", "bf16"))
    assert half != full
    assert half == pytest.approx(full, abs=0.02)


def test_sigterm_saves_a_checkpoint_and_the_run_goes_on_from_it(scenes_store):
    def stop_early(arguments: list[str]) -> None:
        process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.PIPE)
        for line in process.stderr:
            if b'"event": "step"' in line:
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
        assert process.wait() == 143

    with pytest.raises(DrrhoError, match="without a summary"):
        train(settings(samples=32 * 80, checkpoint_steps=1000, log_steps=1), scenes_store, launch=stop_early)
    saved = Checkpoints(scenes_store, "run", 2).steps()
    assert len(saved) == 1
    assert 0 < saved[0] < 80
    train(settings(samples=32 * 80, checkpoint_steps=1000, log_steps=1), scenes_store, launch=in_process)
    assert [row["step"] for row in records(scenes_store)] == list(range(1, 81))


def test_metrics_are_served_while_training_runs(scenes_store):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pages = []

    def scrape(arguments: list[str]) -> None:
        process = subprocess.Popen([sys.executable, "-m", "drrho_clip.training", *arguments], stderr=subprocess.PIPE)
        for line in process.stderr:
            if b'"event": "step"' in line and not pages:
                pages.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode())
        assert process.wait() == 0

    train(settings(metrics_port=port), scenes_store, launch=scrape)
    assert 'drrho_pairwise_loss_variance{of="rho",side="image"}' in pages[0]
    samples = next(float(line.split()[-1]) for line in pages[0].splitlines() if line.startswith("drrho_samples_total "))
    assert samples >= 32 * 3


def test_a_taken_metrics_port_does_not_stop_training(scenes_store):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        assert train(settings(metrics_port=taken.getsockname()[1]), scenes_store, launch=in_process).steps == 12


def test_a_killed_process_is_reported_by_its_signal(scenes_store, monkeypatch):
    monkeypatch.setattr("drrho_clip.training.launch._launcher", lambda _processes: [sys.executable, "-c", KILL_ITSELF])
    with pytest.raises(DrrhoError, match=r"ended by SIGKILL.*memory"):
        train(settings(), scenes_store)


KILL_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_picture_that_cannot_be_decoded_is_masked_and_counted(scenes_store, monkeypatch):
    manifest = load_manifest(scenes_store, "scenes")
    order = SampleOrder(manifest.split("train"), seed=0, batch_size=32)
    bad = SampleReader(scenes_store, manifest).get(int(order.batch(0)[3])).image

    def decode(data: bytes, shorter: int):
        if data == bad:
            raise BadImage("decode", "broken on purpose")
        return decode_image(data, shorter)

    monkeypatch.setattr("drrho_clip.data.loader.decode_image", decode)
    train(settings(), scenes_store, launch=in_process)
    rows = records(scenes_store)
    assert rows[-1]["samples_skipped_total.decode"] >= 1
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_the_settings_that_a_command_gives_are_read_from_it():
    own = {"run": "r", "method": "openclip"}
    config = TrainConfig.parse({**own, "workers": 3, "u_home": "shared", "metrics_port": 9000, "cache_path": "/disk/cache"})
    given = free_settings(["--store", "s3://b/p", "--run", "r", *_free_arguments(config)])
    assert given.keys() == FREE
    assert TrainConfig.parse({**own, **given}) == config
