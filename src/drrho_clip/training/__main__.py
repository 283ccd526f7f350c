"""`python -m drrho_clip.training`: one process of a run, as torchrun starts it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from drrho_clip.errors import DrrhoError
from drrho_clip.observe import configure_logs, get_logger
from drrho_clip.training.step import FREE, read_config


def main(arguments: list[str] | None = None) -> int:
    """Train as one process; exit code 0 done, 2 unusable input, 143 stopped by SIGTERM after a checkpoint."""
    options = _parser().parse_args(arguments)
    if options.log_to_stdout:
        os.dup2(1, 2)
    configure_logs(run=options.run, rank=int(os.environ.get("RANK", "0")))
    from drrho_clip import distributed
    from drrho_clip.storage import open_store
    from drrho_clip.training.trainer import Interrupted
    from drrho_clip.training.worker import work

    try:
        store = open_store(options.store)
        free = {key: value for key in FREE if (value := getattr(options, key)) is not None}
        config = read_config(options.run, store, free)
        with distributed.process_group():
            work(config, config.dataset_version, store)
    except DrrhoError as error:
        return _failed(error, options.failure_file)
    except Interrupted:
        get_logger().warning("interrupted", reason="SIGTERM; the checkpoint is written, start again to go on")
        return 143
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drrho_clip.training", description=main.__doc__)
    parser.add_argument("--store", required=True, help="URI of the store")
    parser.add_argument("--run", required=True, help="name of a run whose config.yaml is in the store")
    parser.add_argument("--failure-file", help="where to write the error that ended the process, as JSON")
    parser.add_argument("--log-to-stdout", action="store_true", help="send the log to stdout instead of stderr")
    for key in sorted(FREE):
        parser.add_argument("--" + key.replace("_", "-"), type=int, help="instead of the recorded value")
    return parser


def _failed(error: DrrhoError, file: str | None) -> int:
    get_logger().error("failed", reason=str(error))
    if file and not Path(file).exists():
        Path(file).write_text(json.dumps({"what": error.what, "where": error.where, "fix": error.fix}))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
