"""`python -m drrho_pipelines.local_worker JOB`: runs one compiled pipeline with kfp.local, whose settings are global."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import yaml


def main(job_file: str) -> int:
    """Run the pipeline that the JSON file describes (pipeline, parameters, root); exit code 1 when a step failed."""
    warnings.simplefilter("ignore")
    from kfp import components, local

    job = json.loads(Path(job_file).read_text())
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=job["root"])
    pipeline = components.load_component_from_text(without_retries(Path(job["pipeline"]).read_text(encoding="utf-8")))
    try:
        pipeline(**job["parameters"])
    except RuntimeError as error:  # what kfp raises for a failed step, whose own reason is on stdout
        print(error)
        return 1
    return 0


def without_retries(text: str) -> str:
    """A compiled pipeline whose steps are tried once: no node is lost here, and a failure is to be told at once."""
    documents = list(yaml.safe_load_all(text))
    specification = documents[0]
    for component in [specification["root"], *specification["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump_all(documents)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
