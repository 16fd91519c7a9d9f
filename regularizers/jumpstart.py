"""Jumpstart regularization: a penalty that keeps every unit and every point of a network alive and nonlinear."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        self.mode = mode
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
        unit_positive, unit_negative, point_positive, point_negative = MODES[self.mode]
        unit = self._violations(
            [group.unit_max for group in groups] if unit_positive else [],
            [group.unit_min for group in groups] if unit_negative else [],
        )
        point = self._violations(
            [group.point_max for group in groups] if point_positive else [],
            [group.point_min for group in groups] if point_negative else [],
        )
        kinds = [kind for kind in (unit, point) if kind is not None]
        if self.aggr == "balanced":
            means = [kind.mean() for kind in kinds]
            return means[0] if len(means) == 1 else means[0] + means[1]
        together = _joined(kinds)
        if self.aggr == "mean":
            return together.mean()
        if self.aggr == "sum":
            return together.sum()
        return torch.linalg.vector_norm(together)

    def _violations(self, highest: list[Tensor], lowest: list[Tensor]) -> Tensor | None:
        """Weighted violations of the constraints that count, one value per unit or point of every layer."""
        total = None
        if highest:
            total = self.sign_balance * F.relu(self.positive_margin - _joined(highest))
        if lowest:
            negative = (1 - self.sign_balance) * F.relu(_joined(lowest) - self.negative_margin)
            total = negative if total is None else total + negative
        return total

    def coverage(self) -> Coverage:
        """The hooked layers, and after a forward pass the number of their units."""
        preactivations = self.preactivations
        units = None
        if preactivations.has_run:
            units = sum(group.unit_max.numel() for group in preactivations.extremes().groups)
        return Coverage(preactivations.layers, units=units)

    def detach(self) -> None:
        """Removes the hooks; `loss` is gone with them."""
        self.preactivations.detach()

    def state_dict(self) -> dict[str, Any]:
        """State of the random tie breaking; empty for the others."""
        return self.preactivations.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.preactivations.load_state_dict(state)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0].flatten() if len(parts) == 1 else torch.cat([part.flatten() for part in parts])
