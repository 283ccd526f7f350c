"""`python -m drrho_clip.training.torchrun`: torchrun without the traceback that it ends with when one of its processes failed.

That process has said why, in its log and in its failure file; what torchrun logs of it (the exit code, the signal) stays.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run torchrun with this process's arguments; 1 where a process failed, as torchrun itself has it."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
