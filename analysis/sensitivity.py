"""How much a network loses when one of its layers, alone, loses its smallest weights, filters or channels.

Source: sensitivity analysis of IntelLabs/distiller (`perform_sensitivity_analysis`), after Han et al., NeurIPS 2015.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx, nn

from regx.analysis.parts import spread
from regx.data.module import Split
from regx.errors import RunFailed, UserError, did_you_mean
from regx.regularizers.groups import Part, cut
from regx.regularizers.selection import Weight, select
from regx.training.folder import RunFolder, to_json, write_atomically
from regx.training.trained import Trained

# What is zeroed -> its kinds of groups in `regx.regularizers.groups`; a layer has one of them.
STRUCTURES = {"elements": ("elements",), "filters": ("units",), "channels": ("channels", "cols")}
# Where the layers are compared.
AT = 0.5

Stage = Literal["val", "test"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        structure: what is zeroed, a key of `STRUCTURES`.
        levels: shares to zero, ascending, from 0 and to at most 1.
        layers: globs of names of layers or weights; none means all.
        stage: the part of the data, `val` or `test`.
        subset: number of its rows, spread evenly; None for all.
    """

    structure: str = "elements"
    levels: tuple[float, ...] = (0.0,)
    layers: tuple[str, ...] = ()
    stage: Stage = "val"
    subset: int | None = None

    @property
    def name(self) -> str:
        """Stem of the files."""
        return f"{self.structure}-{self.stage}" + (f"-{self.subset}" if self.subset else "")


def read_levels(text: str) -> tuple[float, ...]:
    """`0:0.95:0.05` (first, last, step; the last included), or levels separated by commas, `0.25,0.5`; and always 0.

    Raises:
        UserError: it is neither, or a level is not in [0, 1].
    """
    how = f"{text!r} is no first:last:step, such as 0:0.95:0.05, and no list, such as 0.25,0.5, of numbers from 0 to 1"
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = int((last - first) / step + 1e-6) + 1
            found = [round(first + number * step, 10) for number in range(count)] if step > 0 and count <= 1000 else []
        else:
            found = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UserError(how, "levels") from None
    if not found or not all(0 <= level <= 1 for level in found):
        raise UserError(how, "levels")
    return tuple(sorted({0.0, *found}))


def weights(model: nn.Module, request: Request) -> list[tuple[Weight, Part]]:
    """The weights that are looked at, in the order of the model, and how each is cut.

    Raises:
        UserError: no such structure, or a glob matches nothing.
    """
    if request.structure not in STRUCTURES:
        raise UserError(
            f"{request.structure!r} cannot be zeroed{did_you_mean(request.structure, STRUCTURES)}", "structure"
        )
    try:
        chosen = select(model, include="|".join(request.layers) or None)
    except UserError as error:
        raise UserError(error.message, "layers" if request.layers else None) from None
    found = [(weight, part) for weight in chosen if (part := _part(weight, request.structure)) is not None]
    if not found:
        raise UserError(f"none of the {len(chosen)} weights has {request.structure}", "structure")
    return found


def _part(weight: Weight, structure: str) -> Part | None:
    if isinstance(weight.module, fx.GraphModule):  # what stands for a removed branch
        return None
    for groups in STRUCTURES[structure]:
        try:
            return cut(groups, [weight])[1][0].parts[0]
        except UserError:  # it has no such groups
            continue
    return None


class Zeroed:
    """Zeroes the smallest groups of one weight, and puts them back.

    Groups are ordered by the sum of their absolute values, as in Distiller; of a share s of n groups, the s n smallest
    are zeroed, rounded down. Biases stay.

    Args:
        weight: the weight.
        part: how it is cut.
    """

    def __init__(self, weight: Weight, part: Part) -> None:
        self._tensor, self._part = weight.tensor, part
        sizes = part.sums(weight.tensor.detach().abs().double())
        self._order = sizes.flatten().argsort(stable=True)
        self._shape = sizes.shape

    def count(self, level: float) -> int:
        """How many groups go."""
        return int(level * len(self._order) + 1e-6)

    def share(self, count: int) -> float:
        """What part of the groups these are."""
        return count / len(self._order)

    @contextmanager
    def without(self, count: int) -> Iterator[None]:
        """The `count` smallest groups are zero meanwhile."""
        tensor = self._tensor.detach()
        before = tensor.clone()
        kept = torch.ones(len(self._order), dtype=torch.bool, device=tensor.device)
        kept[self._order[:count]] = False
        mask = self._part.spread(kept.view(self._shape)).expand(self._part.shape).reshape(tensor.shape)
        try:
            tensor.masked_fill_(~mask, 0)
            yield
        finally:
            tensor.copy_(before)


class Table:
    """The rows that are measured, in a CSV file: each is on disk before the next is measured.

    Columns: `parameter`, `sparsity` (the share that was asked for), `zeroed` (the share that was zeroed, as groups are
    whole), then the metrics. A JSON file beside it says of which weights they are.

    Args:
        path: the CSV file; rows that it has already are kept.
        identity: what the rows depend on.

    Raises:
        UserError: the file there is of something else.
        RunFailed: it is damaged, or the folder cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        about = path.with_suffix(".json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFailed(f"cannot write {path.parent}: {error.strerror}; choose another --out") from error
        self.rows = _read(path) if path.is_file() else []
        if self.rows and _identity(about) != identity:
            raise UserError(
                f"{path} is of other weights or data than are here now; delete it, or choose another folder", "out"
            )
        write_atomically(about, to_json(identity))
        if self.rows:
            write_atomically(path, "".join(map(_line, [list(self.rows[0]), *(list(r.values()) for r in self.rows)])))
        else:
            path.unlink(missing_ok=True)
        self.known = len(self.rows)

    def find(self, parameter: str, level: float) -> Row | None:
        """The row of a weight at a level."""
        return next((r for r in self.rows if r["parameter"] == parameter and abs(r["sparsity"] - level) < 1e-9), None)

    def append(self, row: Row) -> None:
        """Writes a row."""
        with self.path.open("a", newline="") as file:
            file.write(("" if self.rows else _line(list(row))) + _line(list(row.values())))
        self.rows.append(row)


def _line(cells: Sequence[Any]) -> str:
    return ",".join(cell if isinstance(cell, str) else repr(cell) for cell in cells) + "\n"


def _read(path: Path) -> list[Row]:
    """The complete rows: a process that was killed may have left a part of one."""
    text = path.read_text()
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    try:
        return [
            {key: cell if key == "parameter" else float(cell) for key, cell in zip(lines[0], cells, strict=True)}
            for cells in lines[1:]
        ]
    except ValueError:
        raise RunFailed(f"{path} is damaged; delete it to measure anew") from None


def _identity(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def scan(
    trained: Trained,
    request: Request,
    folder: Path,
    told: Callable[[int, int, str], None] = lambda done, total, parameter: None,
) -> Table:
    """Measures every chosen layer at every level; what is in the folder already is not measured again.

    Args:
        trained: the network; it is as it was afterwards.
        request: what to measure.
        folder: where `<structure>-<stage>.csv` is written, row by row.
        told: called before every measurement with how many are done, how many there are, and the weight.

    Raises:
        UserError: the request does not fit the network or its data.
        RunFailed: the table there is damaged.
    """
    chosen = weights(trained.model, request)
    split = _split(trained, request)
    table = Table(folder / f"{request.name}.csv", _of(trained, request))
    total, done = len(chosen) * len(request.levels), 0
    dense: dict[str, float] = {}
    for weight, part in chosen:
        zeroed = Zeroed(weight, part)
        measured: dict[int, dict[str, float]] = {0: dense} if dense else {}
        for level in request.levels:
            told(done, total, weight.name)
            count = zeroed.count(level)
            if (row := table.find(weight.name, level)) is not None:
                metrics = {key: row[key] for key in row if "/" in key}
            else:
                if (metrics := measured.get(count)) is None:  # type: ignore[assignment]
                    with zeroed.without(count):
                        metrics = _metrics(trained.evaluate(split, request.stage))
                share = zeroed.share(count)
                table.append({"parameter": weight.name, "sparsity": level, "zeroed": share, **metrics})
            measured[count] = metrics
            if count == 0:
                dense = metrics
            done += 1
    told(done, total, "")
    order = {name: number for number, (name, _) in enumerate(trained.model.named_parameters())}
    table.rows.sort(key=lambda row: (order[row["parameter"]], row["sparsity"]))
    return table


def _metrics(row: dict[str, float]) -> dict[str, float]:
    """Loss and metric, and nothing that depends on penalties."""
    return {key: value for key, value in row.items() if key.partition("/")[2] in ("loss", "acc", "r2")}


def _of(trained: Trained, request: Request) -> dict[str, Any]:
    digest = hashlib.sha256(trained.checkpoint.read_bytes()).hexdigest()
    return {
        "checkpoint": trained.checkpoint.name,
        "configuration": trained.config.hash(),
        "sha256": digest,
        "structure": request.structure,
        "stage": request.stage,
        "subset": request.subset,
    }


def _split(trained: Trained, request: Request) -> Split:
    """The rows to measure on.

    Raises:
        UserError: there is no such part, or it has fewer rows than are wanted.
    """
    split = trained.data.val if request.stage == "val" else trained.data.test
    if split is None:
        raise UserError(f"{trained.data.name} has no test part here; use val", "on")
    count = request.subset
    if count is None:
        return split
    if not 1 <= count <= len(split):
        raise UserError(f"{count} is not within 1 and the {len(split)} rows of {request.stage}", "subset")
    return spread(split, count)


def metric_of(rows: Sequence[Row]) -> str:
    """The metric that layers are compared by: accuracy or R2."""
    return next(key for key in rows[0] if key.partition("/")[2] in ("acc", "r2"))


def own(trained: Trained, metric: str) -> float | None:
    """What the run itself has logged of its best weights; None where these are others, or it has not ended."""
    folder = RunFolder(trained.folder)
    result = folder.read_result() if trained.checkpoint == folder.best else None
    return None if result is None else (result["best"] | (result["test"] or {})).get(metric)


def losses(rows: Sequence[Row]) -> list[Row]:
    """What each weight loses where about half of it is zeroed, the most sensitive first.

    The columns: `parameter`, `zeroed` (the measured share that is nearest to `AT`), the metric there, and `lost`.
    """
    metric = metric_of(rows)
    found = []
    for parameter, own_rows in by_parameter(rows).items():
        row = min(own_rows, key=lambda row: abs(row["zeroed"] - AT))
        before = min(own_rows, key=lambda row: row["zeroed"])
        found.append(
            {"parameter": parameter, "zeroed": row["zeroed"], metric: row[metric], "lost": before[metric] - row[metric]}
        )
    return sorted(found, key=lambda row: -row["lost"])


def by_parameter(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Weight -> its rows in the order of what is zeroed."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["parameter"], []).append(row)
    return found
