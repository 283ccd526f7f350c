"""`python -m drrho_clip.training`: one process of a run, as torchrun starts it."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext

from drrho_clip.errors import DrrhoError
from drrho_clip.observe import configure_logs, get_logger
from drrho_clip.training.config import TrainConfig
from drrho_clip.training.failure import PEER_LOST, STOPPED, clear_failure, write_failure
from drrho_clip.training.step import FREE, read_config


def main(arguments: list[str] | None = None) -> int:
    """Train as one process; exit code 0 done or abandoned, 1 another process was lost, 2 unusable input, 143 SIGTERM.

    143 comes after a checkpoint, and so does 0 when the launcher was not heard of: nothing may start the process again then.
    """
    options = _parser().parse_args(arguments)
    if options.log_to_stdout:
        os.dup2(1, 2)
    configure_logs(run=options.run, rank=int(os.environ.get("RANK", "0")))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        clear_failure(options.failure_file)
    from drrho_clip import distributed
    from drrho_clip.training.trainer import Interrupted, Stop

    try:
        _train(options)
    except DrrhoError as error:
        get_logger().error("failed", reason=str(error))
        write_failure(options.failure_file, error.what, where=error.where, fix=error.fix, kind=type(error).__name__)
        return error.exit_code
    except Interrupted as early:
        if early.stop == Stop.ABANDONED:
            return 0
        get_logger().warning("interrupted", reason="SIGTERM; the checkpoint is written, start again to go on")
        write_failure(options.failure_file, "Stopped by SIGTERM after a checkpoint", fix="Start it again.", kind=STOPPED)
        return 143
    except Exception as error:
        lost = distributed.is_lost_peer(error)
        kind, fix = (PEER_LOST, "The others' logs say why.") if lost else (type(error).__name__, "Its log says more.")
        write_failure(options.failure_file, f"{type(error).__name__}: {error}", fix=fix, kind=kind)
        if not lost:
            raise
        get_logger().error("peer_lost", reason=str(error))
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    import torch

    from drrho_clip import distributed
    from drrho_clip.errors import TrainingError
    from drrho_clip.observe.memory import MemoryWatch
    from drrho_clip.storage import open_store
    from drrho_clip.training.heartbeat import LauncherWatch
    from drrho_clip.training.worker import work

    store = open_store(options.store, patient=True)
    free = {key: value for key in FREE if (value := getattr(options, key)) is not None}
    config = read_config(options.run, store, free)
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with LauncherWatch(store, config.run, options.launcher_timeout) as watch, MemoryWatch() if first else nullcontext():
        try:
            with distributed.process_group(config.collective_timeout):
                work(config, config.dataset_version, store, watch, options.holder)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"The GPU's memory is used up: {str(error).splitlines()[0]}",
                where=f"rank {os.environ.get('RANK', '0')}",
                fix="Set gradient_checkpointing, raise accumulate, lower batch_size, or train on more GPUs.",
            ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drrho_clip.training", description=main.__doc__)
    parser.add_argument("--store", required=True, help="URI of the store")
    parser.add_argument("--run", required=True, help="name of a run whose config.yaml is in the store")
    parser.add_argument("--failure-file", help="where to write the error that ended the process, as JSON")
    parser.add_argument("--log-to-stdout", action="store_true", help="send the log to stdout instead of stderr")
    parser.add_argument("--launcher-timeout", type=float, default=0, help="seconds without its launcher after which it ends")
    parser.add_argument(
        "--holder", default="", help="who has the run, where several processes in turn are one (default: this process)"
    )
    for key in sorted(FREE):
        kind = type(TrainConfig.model_fields[key].default)
        parser.add_argument("--" + key.replace("_", "-"), type=kind, help="instead of the recorded value")
    return parser


if __name__ == "__main__":
    sys.exit(main())
