"""Everything that regx does with Weights & Biases; `wandb` is imported where it is used, never before.

`runs` tracks a run while it trains, `upload` sends one that has ended, `sweeps` makes, steers and reads sweeps, and
`agents` works them off.
"""

from regx.training.tracking.runs import (
    FINISH_SECONDS,
    INIT_SECONDS,
    PROBE_SECONDS,
    Mode,
    NullTracker,
    Tracker,
    WandbTracker,
    describe_login,
    start,
)

__all__ = [
    "FINISH_SECONDS",
    "INIT_SECONDS",
    "PROBE_SECONDS",
    "Mode",
    "NullTracker",
    "Tracker",
    "WandbTracker",
    "describe_login",
    "start",
]
