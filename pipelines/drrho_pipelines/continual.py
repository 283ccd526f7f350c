"""The pipeline `continual`, for schedules: what is new, training that goes on with it, promotion where it is better."""

from __future__ import annotations

from dataclasses import replace

from kfp import dsl

from drrho_components.arrivals import arrivals
from drrho_components.begin import begin
from drrho_components.promote import promote
from drrho_pipelines import steering
from drrho_pipelines.ingest import GROUPS, INGEST
from drrho_pipelines.parameters import Parameters, flat_parameters
from drrho_pipelines.reference import REFERENCE, WORKERS
from drrho_pipelines.shared import add_shared
from drrho_pipelines.steering import EVALUATE, REPORT
from drrho_pipelines.step import DAY, GPU, HOUR, Step

JUDGED_AS = ("split", "candidates", "classnames", "batch_size", "precision", "decode_threads")
"""What promotion takes from the settings of the step `evaluate`."""

BEGIN = Step("lease", begin, linked=("holder",), resources=(), cached=False, seconds=HOUR)
ARRIVALS = Step("arrivals", arrivals, linked=("dataset_version",), resources=(), cached=False, seconds=HOUR)
TRAIN = replace(steering.TRAIN, linked=(*steering.TRAIN.linked, "initial"))
PROMOTE = Step("promote", promote, linked=("name", *JUDGED_AS), resources=GPU, cached=False, seconds=DAY)
STEPS = (BEGIN, INGEST, ARRIVALS, REFERENCE, TRAIN, EVALUATE, REPORT, PROMOTE)

DEFAULTS = {**steering.DEFAULTS, "run": "continual"}


def _train_on(parameters: Parameters, data: dsl.PipelineTask, work: dsl.PipelineTask, lease: object) -> None:
    run = work.outputs["run"]
    features = add_shared(parameters, WORKERS, lease, depends_on=data.outputs["fingerprint"])
    reference = features.outputs["name"]
    trained = parameters.task(
        TRAIN,
        run=run,
        initial=work.outputs["initial"],
        dataset_version=data.outputs["version"],
        reference=reference,
        depends_on=features.outputs["fingerprint"],
        lease=lease,
    )
    evaluated = parameters.task(EVALUATE, run=run, reference=reference, depends_on=trained.outputs["Output"], lease=lease)
    reported = parameters.task(
        REPORT, runs=run, split=evaluated.outputs["label"], depends_on=evaluated.outputs["fingerprint"], lease=lease
    )
    judged_as = {name: parameters[f"evaluate_{name}"] for name in JUDGED_AS}
    parameters.task(PROMOTE, name=parameters["run"], run=run, depends_on=reported.outputs["Output"], lease=lease, **judged_as)


@dsl.pipeline(name="continual", description="Train on with what is new in the data, and promote the model where it is better")
@flat_parameters(STEPS, defaults=DEFAULTS)
def continual(parameters: Parameters) -> None:
    """One execution of a schedule. `run` names all of them: their lease, their runs `<run>-v<data version>`, what is promoted."""
    begun = parameters.task(BEGIN, holder=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    lease = begun.outputs["lease"]
    with dsl.If(begun.outputs["Output"] == "yes", name="nobody-else-works"):
        data = add_shared(parameters, GROUPS, lease)
        work = parameters.task(ARRIVALS, dataset_version=data.outputs["version"], lease=lease)
        with dsl.If(work.outputs["Output"] == "yes", name="something-is-new"):
            _train_on(parameters, data, work, lease)
