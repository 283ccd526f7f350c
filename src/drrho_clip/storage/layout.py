"""Where everything lies in the object store: every key of the project is made here."""

from __future__ import annotations

from drrho_clip.errors import ConfigError


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be one folder of a key; raise ConfigError otherwise."""
    if not name or name.startswith(".") or not all(c.isalnum() or c in "._-" for c in name):
        raise ConfigError(
            f"'{name}' cannot be the name of a {what}", fix="Use letters, digits, '-', '_' and '.', not starting with a dot."
        )
    return name


def dataset(name: str) -> str:
    """Folder of a dataset."""
    return f"datasets/{check_name(name, 'dataset')}"


def dataset_manifest(name: str, version: int | None = None) -> str:
    """The newest manifest of a dataset, or the immutable copy of one version."""
    return f"{dataset(name)}/manifest.json" if version is None else f"{dataset(name)}/versions/{version:06d}.json"


def shard(name: str, number: int) -> str:
    """A tar of samples; its member index lies beside it, see `shard_index`."""
    return f"{dataset(name)}/shards/{number:06d}.tar"


def shard_index(shard_key: str) -> str:
    """The member offsets of a shard."""
    return shard_key.removesuffix(".tar") + ".idx"


def shard_keys(shard_key: str) -> str:
    """The source's own keys of the samples of a shard, in order: a JSON list."""
    return shard_key.removesuffix(".tar") + ".keys"


def shard_outcomes(shard_key: str) -> str:
    """Beside a shard that is not published yet: what became of the rows up to its end."""
    return shard_key.removesuffix(".tar") + ".outcomes"


def outcomes(name: str) -> str:
    """Folder of the outcome tables of a dataset that was downloaded."""
    return f"{dataset(name)}/outcomes"


def outcome_table(name: str, number: int, sha256: str) -> str:
    """What became of the rows in one ingest; the tables of a dataset are numbered from 1."""
    return f"{outcomes(name)}/{number:06d}-{sha256[:16]}.parquet"


def group_work(name: str) -> str:
    """Folder of what the groups of an ingest have prepared; gone once it is published."""
    return f"{dataset(name)}/groups"


def group_part(name: str, fingerprint: str, piece: int, round_number: int) -> str:
    """The prepared rows of one piece of a source, those that ended in this round of attempts."""
    return f"{group_work(name)}/{fingerprint}/{piece:08d}.{round_number}.part"


def group_presence(name: str, fingerprint: str, process: str) -> str:
    """There while this process of a group works and nothing is published."""
    return f"{group_work(name)}/{fingerprint}/{process}.here"


def reference(name: str, reference_id: str) -> str:
    """Folder of one reference model's features of one dataset."""
    return f"{dataset(name)}/reference/{check_name(reference_id, 'reference')}"


def reference_manifest(name: str, reference_id: str) -> str:
    """Written last: which model, which preprocessing, which shards."""
    return f"{reference(name, reference_id)}/manifest.json"


def reference_features(name: str, reference_id: str, shard_key: str) -> str:
    """Features of the samples of one shard, [n, 2, dim] fp16."""
    return f"{reference(name, reference_id)}/{shard_key.rsplit('/', 1)[-1].removesuffix('.tar')}.safetensors"


def reference_losses(name: str, reference_id: str) -> str:
    """Per-sample losses of the reference."""
    return f"{reference(name, reference_id)}/losses.parquet"


def run(name: str) -> str:
    """Folder of a training run."""
    return f"runs/{check_name(name, 'run')}"


def run_config(name: str) -> str:
    """The training config of a run, written once."""
    return f"{run(name)}/config.yaml"


def run_metrics(name: str) -> str:
    """One JSON object per logged step."""
    return f"{run(name)}/metrics.jsonl"


def advice(name: str) -> str:
    """What the advisor found with a run as its pilot."""
    return f"{run(name)}/advice.json"


def run_summary(name: str) -> str:
    """Written last by training: what the finished run saw and reached."""
    return f"{run(name)}/summary.json"


def run_failure(name: str) -> str:
    """Why the last attempt of a run ended early; gone while another attempt is made."""
    return f"{run(name)}/failure.json"


def run_launcher(name: str) -> str:
    """Renewed by the launcher that waits for a run: who it is, and that it still lives."""
    return f"{run(name)}/launcher.json"


def run_lease(name: str) -> str:
    """Who trains a run, so that no two processes write it."""
    return f"{run(name)}/lease.json"


def run_pod_log(name: str, pod: str) -> str:
    """The last lines of a pod that failed while it trained a run."""
    return f"{run(name)}/logs/{pod}.log"


def run_weights(name: str) -> str:
    """Per sample of the finished run: index, key, image_weight, text_weight, loss."""
    return f"{run(name)}/weights.parquet"


def checkpoint(name: str, step: int) -> str:
    """Folder of one checkpoint."""
    return f"{run(name)}/checkpoints/step-{step:08d}"


def checkpoint_marker(name: str, step: int) -> str:
    """Written last: the checkpoint is complete."""
    return f"{checkpoint(name, step)}/COMPLETE.json"


def export(name: str) -> str:
    """The trained model as open_clip loads it."""
    return f"{run(name)}/export"


def evaluation(name: str, dataset_name: str, split: str) -> str:
    """Results of a run on one split of one dataset."""
    return f"{run(name)}/evaluation/{check_name(dataset_name, 'dataset')}-{check_name(split, 'split')}.json"


def checkpoint_evaluation(name: str, step: int, dataset_name: str, split: str) -> str:
    """Results of one checkpoint of a run on one split of one dataset."""
    label = f"{check_name(dataset_name, 'dataset')}-{check_name(split, 'split')}"
    return f"{run(name)}/evaluation/checkpoints/{label}/step-{step:08d}.json"


def reference_evaluation(dataset_name: str, reference_id: str, split: str) -> str:
    """Results of a reference on one split of the dataset it was computed for."""
    return f"{reference(dataset_name, reference_id)}/evaluation/{check_name(split, 'split')}.json"


def model(name: str) -> str:
    """Folder of a model that is neither a run of ours nor a reference."""
    return f"models/{check_name(name, 'model')}"


def model_evaluation(name: str, dataset_name: str, split: str) -> str:
    """Results of a model that is neither a run of ours nor a reference."""
    return f"{model(name)}/evaluation/{check_name(dataset_name, 'dataset')}-{check_name(split, 'split')}.json"


def suite_result(owner: str, suite: str, which: str) -> str:
    """Results of a run or model (its folder) on a suite, with .json, .csv or .svg behind: its final model, or its checkpoints."""
    return f"{owner}/suites/{check_name(suite, 'suite')}/{check_name(which, 'result')}"


def suite_task(owner: str, suite: str, label: str, task: str) -> str:
    """The result of one model or checkpoint on one task of a suite."""
    return f"{owner}/suites/{check_name(suite, 'suite')}/tasks/{check_name(label, 'model')}/{check_name(task, 'task')}.json"


def classifier(classifier_id: str) -> str:
    """Classifier weights [classes, dim] of one model, for one list of class names and prompts."""
    return f"classifiers/{classifier_id}.safetensors"


def report(name: str) -> str:
    """The HTML report of one run."""
    return f"{run(name)}/report.html"


def comparison(name: str) -> str:
    """The HTML report of several runs side by side."""
    return f"comparisons/{check_name(name, 'comparison')}/report.html"


def study(name: str) -> str:
    """Folder of a study; its runs lie with all others."""
    return f"studies/{check_name(name, 'study')}"


def study_plan(name: str) -> str:
    """Written once, before the first run of a study: what all of them have in common, and which they are."""
    return f"{study(name)}/plan.json"


def study_result(name: str, ending: str) -> str:
    """What came out of a study: `ending` is json, csv or html."""
    return f"{study(name)}/{'report' if ending == 'html' else 'study'}.{ending}"


def study_plot(name: str, number: int) -> str:
    """A plot of a study's page, counted from 1."""
    return f"{study(name)}/plot-{number}.svg"


def promotion(name: str) -> str:
    """What was decided about a run, once it was compared with the promoted one."""
    return f"{run(name)}/promotion.json"


def promoted(name: str) -> str:
    """The run that is the best so far under a name; replaced only with a condition."""
    return f"promoted/{check_name(name, 'promoted run')}.json"


def lease(name: str) -> str:
    """Who works under a name, so that two runs do not."""
    return f"leases/{check_name(name, 'lease')}.json"
