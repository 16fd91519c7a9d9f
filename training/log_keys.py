"""The names under which a run's numbers are logged, known before it runs. Nothing heavy is imported here."""

from __future__ import annotations

from regx.data import REGISTRY as DATASETS
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training import penalty_config
from regx.training.config import RunConfig

# Of unit and point status (`regx.training.status`), after `train/jr/` and `val/jr/`.
STATUS = (
    "positive_unit_loss",
    "negative_unit_loss",
    "positive_point_loss",
    "negative_point_loss",
    "unit_loss",
    "point_loss",
    "unit_dead_ratio",
    "unit_linear_ratio",
    "unit_nonlinear_ratio",
    "point_dead_ratio",
    "point_linear_ratio",
    "point_nonlinear_ratio",
    "deathness_ratio",
    "linearity_ratio",
    "nonlinearity_ratio",
    "point_efficiency",
)
METRICS = {"classification": ("acc", "top5_acc"), "regression": ("r2", "rmse", "mae")}

_ZEROS = ("elements", "kernels", "filters", "channels", "rows", "columns", "units", "blocks", "heads", "groups")
_SPARSITY = (
    *(f"{unit}{near}" for unit in _ZEROS for near in ("", "_1e-5", "_1e-3", "_1e-2")),
    *("parameters", "parameters_left", "macs", "macs_left", "gates"),
)


def logged(config: RunConfig) -> list[str]:
    """Every column that metrics.csv may have of such a run; which metrics it has depends on the dataset too."""
    found = ["epoch", "lr"]
    wanted = config.penalties()
    # Jumpstart at strength 0 is there for the status alone.
    penalties = {
        label: penalty
        for label, penalty in zip(penalty_config.labels(wanted), wanted, strict=True)
        if config.log_status or penalty.name != "jumpstart" or penalty.strength.peak > 0
    }
    found += ["lambda"] if len(penalties) == 1 else [f"lambda/{label}" for label in penalties]
    losses = [
        key
        for label, penalty in penalties.items()
        if penalty_config.has_loss(REGULARIZERS[penalty.name])
        for key in (label, *([f"scaled_{label}"] if penalty.strength.peak > 0 else []))
    ]
    metrics = [key for task in _tasks(config) for key in METRICS[task]]
    status = [f"jr/{key}" for key in STATUS] if config.log_status else []
    for stage in ("train", "val"):
        found += [f"{stage}/{key}" for key in ("loss", *losses, "total_loss", *metrics, *status)]
    return found + ([f"sparsity/{key}" for key in _SPARSITY] if config.measures_sparsity() else [])


def rises(key: str) -> bool:
    """Whether more of this number is better."""
    falling = ("loss", "rmse", "mae", "dead", "deathness", "linear", "linearity", "left")
    return not any(word in falling for word in key.rpartition("/")[2].split("_"))


def _tasks(config: RunConfig) -> list[str]:
    if config.dataset in DATASETS and config.task == "auto":
        own = DATASETS[config.dataset].facts["task"]
        return ["regression" if own == "regression" else "classification"]
    return [config.task] if config.task in METRICS else list(METRICS)
