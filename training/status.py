"""Which units and points of a network are dead, linear or nonlinear.

A unit (of a layer) is seen over all points of the data, a point (a sample, in a layer) over all units of the layer:

    dead       its largest pre-activation is <= 0: never active
    linear     its smallest pre-activation is > 0: always active
    nonlinear  neither

Source: C. R. Riera Molina, E. Puertas, O. Pujol, IEEE Access 2025, doi:10.1109/ACCESS.2025.3591313, and its code,
blauigris/jumpstart, with these deviations: the status is decided from the extremes themselves, not from rounded losses;
losses are means over the cells that exist, where the reference code also counts the padding of its tables; and state is
kept on the device.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regx.errors import UserError
from regx.regularizers.preactivations import Preactivations
from regx.training.distributed import World
from regx.training.log_keys import STATUS as KEYS

DEAD, LINEAR, NONLINEAR, ABSENT = -1, 0, 1, -2

# Extremes wait, unreduced, until this many numbers (16 MiB) lie there: many small batches cost one reduction together.
_WAITING_LIMIT = 2**22


@dataclass(frozen=True)
class StatusTables:
    """Status of every unit and point as the codes `DEAD`, `LINEAR`, `NONLINEAR`, and `ABSENT` beyond a layer's width.

    Attributes:
        layers: names of the columns, in the order of the forward pass.
        units: (width of the widest layer, L) int8.
        points: (points, L) int8; the first `max_points` that the tracker saw.
    """

    layers: tuple[str, ...]
    units: NDArray[np.int8]
    points: NDArray[np.int8]


class StatusTracker:
    """Counts dead, linear and nonlinear units and points over the forward passes of an epoch.

        for x, y in batches:
            model(x)
            tracker.update()
        row = tracker.compute()
        tracker.reset()

    `update` and `compute` wait for no device. A unit is judged over all batches: dead in one and linear in another
    makes it nonlinear. A point belongs to one batch.

    Args:
        preactivations: the hooks to read; a `Jumpstart` regularizer shares its own, so that extremes are computed once.
        max_points: number of points that `tables()` keeps, the first ones seen; `None` keeps all. The numbers of
            `compute()` always cover all points.
    """

    def __init__(self, preactivations: Preactivations, max_points: int | None = 5000) -> None:
        self.preactivations = preactivations
        self.max_points = max_points
        self.reset()

    def reset(self) -> None:
        """Forgets all updates."""
        self._layers: tuple[str, ...] = ()
        self._positions: tuple[tuple[int, ...], ...] = ()
        self._order: Tensor | None = None
        self._waiting: list[list[tuple[Tensor, ...]]] = []
        self._waiting_numbers = 0
        self._updates = 0
        self._points = 0
        self._sums: dict[str, Tensor] = {}
        self._ever_positive: list[Tensor] = []
        self._ever_nonpositive: list[Tensor] = []
        self._codes: list[Tensor] = []

    def update(self) -> None:
        """Takes the extremes of the last forward pass.

        Raises:
            UserError: there was none, or it ran other layers than the ones before, or its layers disagree on the number
                of points (so that a point has no status over all layers).
        """
        extremes = self.preactivations.extremes()
        positions = tuple(group.positions for group in extremes.groups)
        points = {group.point_max.shape[1] for group in extremes.groups}
        if len(points) != 1:
            counts = ", ".join(str(count) for count in sorted(points))
            raise UserError(
                f"layers see different numbers of points ({counts}), so points have no status over all layers"
            )
        if self._updates and (extremes.layers, positions) != (self._layers, self._positions):
            raise UserError("this forward pass ran other layers than the ones before; call reset() in between")
        self._layers, self._positions = extremes.layers, positions
        self._updates += 1
        self._points += points.pop()
        batch = [
            (group.unit_max.detach(), group.unit_min.detach(), group.point_max.detach(), group.point_min.detach())
            for group in extremes.groups
        ]
        self._waiting.append(batch)
        self._waiting_numbers += sum(tensor.numel() for group in batch for tensor in group)
        if self._waiting_numbers > _WAITING_LIMIT:
            self.reduce()

    def compute(self) -> dict[str, Tensor]:
        """The 16 numbers of `KEYS`, over all updates, as 0-dimensional tensors on the device of the model.

        * `positive_unit_loss`, `negative_unit_loss`, `positive_point_loss`, `negative_point_loss`: mean of
          relu(1 - max) and of relu(1 + min), `Jumpstart`'s constraints; `unit_loss`, `point_loss`: the mean of both.
        * `unit_dead_ratio`, `unit_linear_ratio`, `unit_nonlinear_ratio`: share of the units of all layers.
        * `point_dead_ratio`: share of the points that are dead in some layer; `point_linear_ratio`,
          `point_nonlinear_ratio`: linear, nonlinear in all layers.
        * `deathness_ratio`, `linearity_ratio`, `nonlinearity_ratio`: share of the (point, layer) cells.
        * `point_efficiency`: share of the (point, layer) cells that come after the last layer in which the point is
          dead: no gradient of this point reaches an earlier one.

        Raises:
            UserError: there was no update.
        """
        self.reduce()
        layers, sums = len(self._layers), self._sums
        positive_unit = sums["positive_unit"] / self._updates
        negative_unit = sums["negative_unit"] / self._updates
        positive = torch.cat([state.flatten() for state in self._ever_positive])
        nonpositive = torch.cat([state.flatten() for state in self._ever_nonpositive])
        units = len(positive)
        cells = self._points * layers
        positive_point, negative_point = sums["positive_point"] / cells, sums["negative_point"] / cells
        values = (
            positive_unit / units,
            negative_unit / units,
            positive_point,
            negative_point,
            (positive_unit + negative_unit) / (2 * units),
            (positive_point + negative_point) / 2,
            (~positive).sum() / units,
            (~nonpositive).sum() / units,
            (positive & nonpositive).sum() / units,
            sums["points_dead"] / self._points,
            sums["points_linear"] / self._points,
            sums["points_nonlinear"] / self._points,
            sums["cells_dead"] / cells,
            sums["cells_linear"] / cells,
            (cells - sums["cells_dead"] - sums["cells_linear"]) / cells,
            sums["cells_efficient"] / cells,
        )
        return dict(zip(KEYS, values, strict=True))

    def tables(self) -> StatusTables:
        """Status of every unit and of the first `max_points` points, on the CPU.

        Raises:
            UserError: there was no update.
        """
        self.reduce()
        width = max(state.shape[1] for state in self._ever_positive)
        units = np.full((width, len(self._layers)), ABSENT, dtype=np.int8)
        for positions, positive, nonpositive in zip(
            self._positions, self._ever_positive, self._ever_nonpositive, strict=True
        ):
            codes = _codes(~positive, ~nonpositive).cpu().numpy()
            units[: codes.shape[1], list(positions)] = codes.T
        return StatusTables(self._layers, units, torch.cat(self._codes, 1).T.cpu().numpy())

    def state_dict(self, world: World) -> dict[str, Any]:
        """What all processes have seen together, to go on from; the points of `tables()` are those of this process."""
        counts = [self._updates, self._points]
        if world.size > 1:
            self.reduce()
            counts = world.sum(torch.tensor(counts, device=self._codes[0].device)).tolist()
        return {
            "layers": self._layers,
            "positions": self._positions,
            "updates": counts[0],
            "points": counts[1],
            # As they are: a sum in other parts is another one in its last digits.
            "waiting": self._waiting,
            "waiting_numbers": self._waiting_numbers,
            "sums": {name: world.sum(value) for name, value in self._sums.items()},
            "ever_positive": [world.any(state) for state in self._ever_positive],
            "ever_nonpositive": [world.any(state) for state in self._ever_nonpositive],
            "codes": self._codes,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores `state_dict()`."""
        self.reset()
        self._layers, self._positions = tuple(state["layers"]), tuple(tuple(group) for group in state["positions"])
        self._updates, self._points = state["updates"], state["points"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._ever_positive = [value.to(device) for value in state["ever_positive"]]
        self._ever_nonpositive = [value.to(device) for value in state["ever_nonpositive"]]
        self._codes = [codes.to(device) for codes in state["codes"]]
        self._waiting = [[tuple(t.to(device) for t in group) for group in batch] for batch in state["waiting"]]
        self._waiting_numbers = state["waiting_numbers"]

    def merge(self, world: World) -> None:
        """Takes in what the other processes have seen."""
        if world.size > 1:
            state = self.state_dict(world)
            self.load_state_dict(state, state["codes"][0].device)

    def reduce(self) -> None:
        """Folds the waiting extremes into the sums."""
        if not self._updates:
            raise UserError("no status yet: call update() after a forward pass of the model")
        if not self._waiting:
            return
        highs, lows = [], []
        for i, batches in enumerate(zip(*self._waiting, strict=True)):
            unit_max, unit_min = (torch.stack([batch[side] for batch in batches]) for side in (0, 1))  # (updates, L, C)
            self._add("positive_unit", F.relu(1 - unit_max).sum())
            self._add("negative_unit", F.relu(1 + unit_min).sum())
            positive, nonpositive = (unit_max > 0).any(0), (unit_min <= 0).any(0)
            if i == len(self._ever_positive):
                self._ever_positive.append(positive)
                self._ever_nonpositive.append(nonpositive)
            else:
                self._ever_positive[i] |= positive
                self._ever_nonpositive[i] |= nonpositive
            highs.append(torch.cat([batch[2] for batch in batches], 1))  # (L, points)
            lows.append(torch.cat([batch[3] for batch in batches], 1))
        self._waiting, self._waiting_numbers = [], 0
        self._add_points(torch.cat(highs), torch.cat(lows))

    def _add_points(self, point_max: Tensor, point_min: Tensor) -> None:
        """Counts points; (layers, points), the layers in the order of the groups."""
        self._add("positive_point", F.relu(1 - point_max).sum())
        self._add("negative_point", F.relu(1 + point_min).sum())
        dead, linear = point_max <= 0, point_min > 0
        self._add("points_dead", dead.any(0).sum())
        self._add("points_linear", linear.all(0).sum())
        self._add("points_nonlinear", (~(dead | linear)).all(0).sum())
        self._add("cells_dead", dead.sum())
        self._add("cells_linear", linear.sum())
        positions = [position for group in self._positions for position in group]
        if self._order is None:
            self._order = torch.tensor(positions, device=dead.device)
        # A point is cut off up to its last dead layer; layer numbers count from 1, so 0 means nowhere dead.
        last_dead = (dead * (self._order + 1).unsqueeze(1)).amax(0)
        self._add("cells_efficient", (len(positions) - last_dead).sum())
        kept = sum(codes.shape[1] for codes in self._codes)
        room = point_max.shape[1] if self.max_points is None else self.max_points - kept
        if room > 0 or not self._codes:
            codes = _codes(dead[:, :room], linear[:, :room])
            self._codes.append(torch.empty_like(codes).index_copy_(0, self._order, codes))

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value


def _codes(dead: Tensor, linear: Tensor) -> Tensor:
    """int8 codes of cells that are dead, linear, or else nonlinear."""
    return NONLINEAR + (DEAD - NONLINEAR) * dead.to(torch.int8) + (LINEAR - NONLINEAR) * linear.to(torch.int8)
