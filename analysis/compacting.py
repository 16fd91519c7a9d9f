"""From a trained run to a compact network that computes the same, checked on its data and saved beside the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regx.analysis.parts import spread
from regx.analysis.sizes import Size, by_layer, size
from regx.compaction import linear, observed, pruning
from regx.compaction.recipe import follow
from regx.compaction.removal import Compact, compact
from regx.data.module import Split
from regx.errors import RunFailed, UserError
from regx.training.folder import RunFolder, save_checkpoint, to_json, write_atomically, write_csv
from regx.training.trained import Trained

# Rows of a batch of the check and of measuring what is dead.
BATCH = 128
# The check takes as many validation samples, spread evenly, as cost this many multiply-adds: all of a small network's,
# some 500 of ResNet-50's at 224 pixels, which is minutes on a CPU and not hours. It never takes fewer than the least.
WORK, LEAST = 2 * 10**12, 256


@dataclass(frozen=True)
class Check:
    """How a compact network compares with the masked one.

    Attributes:
        rows: validation samples that both were run on.
        of: how many there are.
        difference: largest absolute difference of an output, relative to the largest output.
        agreement: share of the samples with the same prediction; None for a regression.
        metrics: network (trained, masked, compact) -> its metrics on these rows.
    """

    rows: int
    of: int
    difference: float
    agreement: float | None
    metrics: dict[str, dict[str, float]]


@dataclass
class Result:
    """What `compact_run` has made.

    Attributes:
        compact: the network and its recipe.
        sizes: network (trained, compact) -> its size.
        check: None where nothing was compared.
        layers: the rows of `sizes.by_layer`.
        notes: what was zeroed or folded, and what could not be removed.
    """

    compact: Compact
    sizes: dict[str, Size]
    check: Check | None
    layers: list[dict[str, Any]]
    notes: list[str]


def compact_run(
    trained: Trained,
    *,
    threshold: float | None = None,
    target_macs: float | None = None,
    dead: bool = False,
    fold_linear: bool = False,
    check: bool = True,
    tolerance: float = 1e-5,
) -> Result:
    """Removes what does not matter from a trained network.

    Args:
        trained: the network; it stays as it is.
        threshold: zero units, filters and normalisation scales up to this magnitude before.
        target_macs: zero the smallest channels before, until this share of the multiply-adds is left.
        dead: also remove units that are 0 on all training samples.
        fold_linear: also fold layers all of whose units are above 0 on all training samples into their neighbours.
        check: compare with the masked network on validation samples, of large networks on some of them.
        tolerance: largest difference that is accepted, relative to the largest output.

    Raises:
        UserError: an option is out of bounds, or the network cannot be traced or has a dead layer.
        RunFailed: the check found a larger difference.
    """
    for name, value, limit in (("threshold", threshold, float("inf")), ("target_macs", target_macs, 1.0)):
        if value is not None and not 0 < value <= limit:
            raise UserError(
                f"{value:g} is out of bounds; use a number above 0{', at most 1' if limit == 1 else ''}", name
            )
    masked = copy.deepcopy(trained.model)
    x = trained.sample(2)
    notes = []
    if threshold is not None:
        notes.append(
            f"{pruning.by_threshold(masked, threshold):,} units, filters and scales up to {threshold:g} zeroed"
        )
    if target_macs is not None:
        count = pruning.to_macs(masked, target_macs, x)
        notes.append(f"{count:,} channels of the smallest magnitude zeroed for {target_macs:g} of the multiply-adds")
    batches, seen = _Batches(trained.data.train), len(trained.data.train)
    if dead:
        count = observed.zero_dead(masked, batches)
        notes.append(f"{count:,} inputs of layers are 0 on all {seen:,} training samples; on others they need not be")
    made = compact(masked, x)
    if fold_linear:
        folded = linear.fold(made, batches)
        notes += [f"{line} (exact where its units are above 0, as on all {seen:,} training samples)" for line in folded]
    notes += made.notes
    sizes = {"trained": size(trained.model, x), "compact": size(made.model, x)}
    layers = by_layer(sizes["trained"], sizes["compact"])
    rows = max(LEAST, WORK // max(1, sizes["trained"].macs))
    found = _compare(trained, masked, made.model, rows) if check else None
    if found and not found.difference <= tolerance:
        raise RunFailed(
            f"the compact network differs by {found.difference:.1e} of the largest output on {found.rows:,} validation"
            f" samples, more than the tolerance of {tolerance:g}; nothing was saved"
        )
    return Result(made, sizes, found, layers, notes)


def save(result: Result, trained: Trained, folder: Path, argv: list[str]) -> None:
    """Writes a compact network as a folder that every command takes for a run: its best weights, with the recipe.

    config.yaml, checkpoints/best.pt (`epoch`, `model`, `recipe`), layers.csv and compact.json, which is written last.

    Raises:
        UserError: the folder holds something else.
    """
    target = RunFolder(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "compact.json").is_file():
        raise UserError(f"{folder} is not empty and was not written by regx compact", "out")
    target.best.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target.config, RunFolder(trained.folder).read_config().as_yaml())
    state = {
        "epoch": trained.epoch,
        "model": result.compact.model.state_dict(),
        "recipe": trained.recipe + result.compact.recipe,
    }
    if trained.moments:
        state["moments"] = {"optimizer": trained.config.optimizer, "of": _moments(trained, result.compact)}
    save_checkpoint(target.best, state)
    write_csv(folder / "layers.csv", result.layers)
    summary = {
        "from": str(trained.checkpoint),
        "argv": argv,
        "sizes": {name: of.totals() for name, of in result.sizes.items()},
        "check": asdict(result.check) if result.check else None,
        "notes": result.notes,
    }
    write_atomically(folder / "compact.json", to_json(summary))


def _moments(trained: Trained, made: Compact) -> dict[str, dict[str, Tensor]]:
    """What the optimiser holds of the parameters that are left, cut as they are."""
    left = dict(made.model.named_parameters())
    keys = {key for held in trained.moments.values() for key in held}
    found: dict[str, dict[str, Tensor]] = {}
    for key in keys:
        of = {name: held[key] for name, held in trained.moments.items() if torch.is_tensor(held.get(key))}
        for name, x in follow(of, made.recipe).items():
            if name in left:
                found.setdefault(name, {})[key] = x
    return found


class _Batches:
    """The inputs of a part of the data, as in evaluation, as often as they are gone through."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __iter__(self) -> Iterator[Tensor]:
        rows = [slice(first, first + BATCH) for first in range(0, len(self.split), BATCH)]
        return (batch.x for batch in self.split.batches(rows) if len(batch.x))


def _compare(trained: Trained, masked: nn.Module, smaller: nn.Module, rows: int) -> Check:
    total = len(trained.data.val)
    split = spread(trained.data.val, min(rows, total))
    scale, same = 0.0, 0
    gaps: list[float] = []
    with torch.no_grad():
        for x in _Batches(split):
            first, second = masked.eval()(x), smaller.eval()(x)
            gaps.append(float((first - second).abs().max()))
            scale = max(scale, float(first.abs().max()))
            if trained.data.task != "regression":
                same += int((trained.predict(first) == trained.predict(second)).sum())
    worst = float(np.max(gaps))  # not a number, where one is none
    networks = {"masked": masked, "compact": smaller}
    metrics = {name: trained.evaluate(split, "val", model) for name, model in networks.items()}
    zeroed = any(not torch.equal(*pair) for pair in zip(trained.model.parameters(), masked.parameters(), strict=True))
    before = trained.evaluate(split, "val") if zeroed else metrics["masked"]
    relative = worst / scale if scale else worst
    agreement = None if trained.data.task == "regression" else same / len(split)
    return Check(len(split), total, relative, agreement, {"trained": before} | metrics)
