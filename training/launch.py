"""Starts the processes of `--devices N` on this machine, and starts them anew when one dies."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from regx.errors import LostContact

# How often a run whose process was killed goes on from its last checkpoint.
MAX_RESTARTS = 3
# What kills a process from outside or by a fault of the machine: not what regx says itself by its exit code.
KILLED = {-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS}


def processes(devices: str) -> int:
    """How many processes `--devices` asks this one to start; 1 where a launcher has started it already."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return 1
    kind, _, count = devices.partition(":")
    number = count if kind == "cpu" else devices
    return max(1, int(number)) if number.isdigit() else 1


def launch(arguments: Sequence[str], count: int) -> int:
    """Runs `regx` with these arguments in `count` processes that train together.

    Returns:
        The exit code: that of the process that failed first, 130 after an interruption.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from regx.training.distributed import RESTARTS

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say ourselves what happened
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    for restart in range(MAX_RESTARTS + 1):
        os.environ[RESTARTS] = str(restart)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=f"regx-{os.getpid()}-{restart}",
            max_restarts=0,
            monitor_interval=0.2,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "regx", *arguments)
            return 0
        except ChildFailedError as error:
            codes = [failure.exitcode for failure in error.failures.values()]
            said = {code for code in codes if code > 0} - {LostContact.exit_code}
            if said or not KILLED.intersection(codes) or restart == MAX_RESTARTS:
                return max(said, default=1)
            print("regx: warning: a process was killed; going on from the last checkpoint", file=sys.stderr)
        except SignalException:
            return 130
    return 1
