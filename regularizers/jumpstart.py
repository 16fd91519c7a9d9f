"""Jumpstart regularization: a penalty that keeps every unit and every point of a network alive and nonlinear."""

import functools
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from regx.errors import UserError
from regx.parameters import Bounds
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.base import Coverage, Regularizer
from regx.regularizers.preactivations import Preactivations

# Which constraints a mode keeps: (unit positive, unit negative, point positive, point negative).
MODES = {
    "full": (True, True, True, True),
    "unit": (True, True, False, False),
    "point": (False, False, True, True),
    "unit_positive": (True, False, False, False),
    "point_positive": (False, False, True, False),
    "positive": (True, False, True, False),
    "all_but_unit_positive": (False, True, True, True),
    "all_but_unit_negative": (True, False, True, True),
    "all_but_point_positive": (True, True, False, True),
    "all_but_point_negative": (True, True, True, False),
}


@register(
    "jumpstart",
    kind="activations",
    zeros="none",
    formula="mean over units + mean over points of rho relu(1 - max a) + (1 - rho) relu(1 + min a)",
    example="jumpstart(mode=full)=0.01",
    source="Riera Molina, Puertas, Pujol, IEEE Access 2025, doi:10.1109/ACCESS.2025.3591313",
)
class Jumpstart(Regularizer):
    """Keeps units and points from dying and from becoming linear, by a penalty on the pre-activations.

    With `a` the pre-activations (N, C, ...) of a layer, max and min taken over everything but the units (vectors of C)
    or over everything but the points, that is the samples (vectors of N), and rho = `sign_balance`:

        positive = relu(positive_margin - max a)    # 0 where some value reaches +1: not dead
        negative = relu(min a - negative_margin)    # 0 where some value reaches -1: not linear
        unit  = rho * positive + (1 - rho) * negative    over the units of all layers
        point = rho * positive + (1 - rho) * negative    over the points of all layers
        loss  = mean(unit) + mean(point)                 (aggr="balanced")

    The paper's formula adds positive and negative with weight one, so with rho = 1/2 this loss, like that of the
    authors' code, is half of it: a strength of 0.01 here is 0.005 there.

    At an all-zero initialisation all pre-activations tie at 0 and the two constraints pull at the same entry: with
    rho = 1/2 the gradients cancel exactly, so start such a network with `sign_balance=0.51`.

        regularizer = Jumpstart(model)
        loss = cross_entropy(model(x), y) + 0.01 * regularizer.loss
        loss.backward()

    Sources: C. R. Riera Molina, E. Puertas, O. Pujol, "Unit-Centric Regularization for Efficient Deep Neural Networks",
    IEEE Access 2025, doi:10.1109/ACCESS.2025.3591313; C. Riera, C. Rey, T. Serra, E. Puertas, O. Pujol, "Training
    Thinner and Deeper Neural Networks: Jumpstart Regularization", arXiv:2201.12795 (whose code has `aggr=sum` and a
    free negative margin). The authors' code, blauigris/jumpstart, hooks layer outputs: `hook_at=layer` does the same.

    Args:
        mode: which of the four constraints count. `full`: all; `unit`, `point`: both of that kind; `unit_positive`,
            `point_positive`, `positive`: the positive ones; `all_but_...`: all except the named one. The weights rho
            and 1 - rho stay as they are.
        aggr: `balanced`: mean(unit) + mean(point); `mean`, `norm`, `sum`: mean, Euclidean norm or sum of the units and
            points of all layers together.
        tie_breaking: which of several equal extremes receives the gradient: the first (`single`), all of them equally
            (`average`), or one drawn at random (`random`).
        sign_balance: weight rho of the positive constraints; the negative ones have 1 - rho.
        positive_margin: value that the largest pre-activation must reach.
        negative_margin: value that the smallest pre-activation must reach.
        hook_at: `activation`: the inputs of activation modules, the true pre-activations; `layer`: the outputs of
            modules with a weight, before batch normalisation and skip connections, as in the authors' code.
        skip_last: leave out the last layer (`hook_at=layer` only).
        skip_batchnorm: leave out normalisation layers (`hook_at=layer` only).
        skip_downsample: leave out modules named `downsample`.
        unit_dim: dimension of the units of pre-activations with more than two dimensions: 1 for (N, C, H, W), -1 for
            transformers (N, T, C).
        global_batch: where several processes train together, take the extremes of units over the batches of all of
            them, as one process with the whole batch would (`aggr=balanced` only); without it each process asks its
            own batch for them, which is stricter and exchanges nothing.

    Raises:
        UserError: an option is not legal, or the model has nothing to hook.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mode: Literal[
            "full",
            "unit",
            "point",
            "unit_positive",
            "point_positive",
            "positive",
            "all_but_unit_positive",
            "all_but_unit_negative",
            "all_but_point_positive",
            "all_but_point_negative",
        ] = "full",
        aggr: Literal["balanced", "mean", "norm", "sum"] = "balanced",
        tie_breaking: Literal["single", "average", "random"] = "single",
        sign_balance: Annotated[float, Bounds(0, 1)] = 0.5,
        positive_margin: float = 1.0,
        negative_margin: float = -1.0,
        hook_at: Literal["activation", "layer"] = "activation",
        skip_last: bool = True,
        skip_batchnorm: bool = True,
        skip_downsample: bool = False,
        unit_dim: int = 1,
        global_batch: bool = False,
    ) -> None:
        REGISTRY["jumpstart"].check(
            {
                "mode": mode,
                "aggr": aggr,
                "sign_balance": sign_balance,
                "positive_margin": positive_margin,
                "negative_margin": negative_margin,
            }
        )
        if global_batch and aggr != "balanced":
            raise UserError(f"needs aggr=balanced; {aggr} of several processes does not add up", "global_batch")
        self.mode = mode
        self.global_batch = global_batch
        self.aggr = aggr
        self.sign_balance = sign_balance
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.preactivations = Preactivations(
            model,
            hook_at=hook_at,
            skip_last=skip_last,
            skip_batchnorm=skip_batchnorm,
            skip_downsample=skip_downsample,
            unit_dim=unit_dim,
            tie_breaking=tie_breaking,
        )

    def __repr__(self) -> str:
        return (
            f"Jumpstart(mode={self.mode!r}, aggr={self.aggr!r}, sign_balance={self.sign_balance},"
            f" hook_at={self.preactivations.hook_at!r}, layers={len(self.preactivations.layers)})"
        )

    @property
    def loss(self) -> Tensor:
        """Unscaled penalty of the last forward pass: 0-dimensional, differentiable.

        Raises:
            UserError: there was no forward pass yet.
        """
        groups = self.preactivations.extremes().groups
        constants = _constants(
            self.mode,
            self.aggr,
            self.sign_balance,
            self.positive_margin,
            self.negative_margin,
            tuple([(group.values.shape, group.units, group.values.dtype, group.values.device) for group in groups]),
        )
        violations = [
            (group.values * sign + margin).relu() * weight
            for group, (sign, margin, weight) in zip(groups, constants, strict=True)
        ]
        if self.global_batch and torch.is_grad_enabled() and dist.is_initialized() and dist.get_world_size() > 1:
            for group, violation, (sign, _, _) in zip(groups, violations, constants, strict=True):
                points = group.values.shape[2] - group.units
                violation[:, :, : group.units] *= _owned(group.values[:, :, : group.units] * -sign, points)
        if self.aggr == "norm":
            return torch.linalg.vector_norm(torch.cat([violation.sum(1).flatten() for violation in violations]))
        sums = [violation.sum() for violation in violations]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum()

    def coverage(self) -> Coverage:
        """The hooked layers, and after a forward pass the number of their units."""
        preactivations = self.preactivations
        units: dict[int, int] = {}
        if preactivations.has_run:
            for group in preactivations.extremes().groups:
                units |= dict.fromkeys(group.positions, group.unit_max.shape[1])
        return Coverage(preactivations.layers, groups=tuple(units[i] for i in sorted(units)))

    def detach(self) -> None:
        """Removes the hooks; `loss` is gone with them."""
        self.preactivations.detach()

    def state_dict(self) -> dict[str, Any]:
        """State of the random tie breaking; empty for the others."""
        return self.preactivations.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.preactivations.load_state_dict(state)


@torch.no_grad()
def _owned(extremes: Tensor, points: int) -> Tensor:
    """All points over those of this process where this one has the largest value, else 0.

    The mean over processes weighs each by its points, so each extreme counts in full in the one batch that holds it.

    Args:
        extremes: (L, 2, C) values of this process, the larger the more extreme.
        points: samples of this process.
    """
    total = torch.tensor(float(points), device=extremes.device)
    dist.all_reduce(total)
    everywhere = [torch.empty_like(extremes) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, extremes.contiguous())
    owner = torch.stack(everywhere).argmax(0)  # of equal ones the first
    return (owner == dist.get_rank()).to(extremes) * (total / points).to(extremes)


@functools.lru_cache(maxsize=64)
def _constants(
    mode: str,
    aggr: str,
    sign_balance: float,
    positive_margin: float,
    negative_margin: float,
    groups: tuple[tuple[torch.Size, int, torch.dtype, torch.device], ...],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """`sign` and `margin` (2, 1), `weight` (2, C + N) of every group: penalty = relu(values * sign + margin) * weight.

    Kept from step to step: to make such small tensors takes longer than to use them.

    Args:
        mode, aggr, sign_balance, positive_margin, negative_margin: options of `Jumpstart`.
        groups: shape (L, 2, C + N), number of units, dtype and device of the values of every group.
    """
    kept = MODES[mode]
    units = sum(shape[0] * width for shape, width, _, _ in groups) * any(kept[:2])
    points = sum(shape[0] * (shape[2] - width) for shape, width, _, _ in groups) * any(kept[2:])
    unit_count, point_count = {"balanced": (units, points), "mean": (units + points,) * 2}.get(aggr, (1, 1))
    rho = (sign_balance, 1 - sign_balance)
    of_units = [rho[i] / unit_count if kept[i] else 0.0 for i in (0, 1)]
    of_points = [rho[i] / point_count if kept[2 + i] else 0.0 for i in (0, 1)]
    constants = []
    with torch.inference_mode(False):  # an inference tensor would be of no use to a later training step
        for shape, width, dtype, device in groups:
            sign = torch.tensor([[-1.0], [1.0]], dtype=dtype, device=device)
            margin = torch.tensor([[positive_margin], [-negative_margin]], dtype=dtype, device=device)
            rows = [[of_units[i]] * width + [of_points[i]] * (shape[2] - width) for i in (0, 1)]
            constants.append((sign, margin, torch.tensor(rows, dtype=dtype, device=device)))
    return constants
