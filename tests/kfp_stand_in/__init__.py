"""A stand-in for the API server of Kubeflow Pipelines, which cannot be built or had in tests.

It answers kfp.Client as a real server of version 2.17.0 was recorded to answer (`exchanges.json`: codes, states, errors and names
of fields; `tests/pipelines/test_kfp_stand_in.py` replays them), keeps everything in memory, and hands runs to a runner:

    with StandIn(runner) as server:            # server.url is what kfp.Client takes as its host
        ...

A runner is a function of an Execution: it says which steps begin and end. What is no part of the real API starts with /stand-in/.
"""

from kfp_stand_in.execution import Execution
from kfp_stand_in.http import StandIn

__all__ = ["Execution", "StandIn"]
