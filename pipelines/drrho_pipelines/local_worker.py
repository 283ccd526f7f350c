"""`python -m drrho_pipelines.local_worker JOB`: runs one compiled pipeline with kfp.local, whose settings are global."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def main(job_file: str) -> int:
    """Run the pipeline that the JSON file describes (pipeline, parameters, root); exit code 1 when a step failed."""
    warnings.simplefilter("ignore")
    from kfp import components, local

    job = json.loads(Path(job_file).read_text())
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=job["root"])
    pipeline = components.load_component_from_file(job["pipeline"])
    try:
        pipeline(**job["parameters"])
    except RuntimeError as error:  # what kfp raises for a failed step, whose own reason is on stdout
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
