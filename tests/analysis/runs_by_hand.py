"""Runs made by hand, for the tests of tables."""

from typing import Any

from regx.analysis.runs import Run


def run(
    value: float,
    *,
    seed: int | None = 0,
    label: str | None = None,
    status: str = "finished",
    monitor: str = "val/acc",
    best: dict[str, float] | None = None,
    ended: str | None = None,
    **parameters: Any,
) -> Run:
    """A run whose monitored metric is `value`; a parameter `technique__lambda` is called `technique.lambda`."""
    parameters = {name.replace("__", "."): item for name, item in parameters.items()}
    found = {monitor: value} | (best or {}) if status == "finished" else {}
    name = "-".join(map(str, (label, *parameters.values(), seed)))
    return Run(name, status, label, parameters, seed, {"dataset": "moons"}, found, found, monitor, ended)
