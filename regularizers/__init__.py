"""The regularizers: each is a penalty to add to the training loss, or a rule applied after every optimiser step.

    from regx.regularizers import GroupLasso, Jumpstart, create
    regularizer = Jumpstart(model)                          # or
    regularizer = create("jumpstart(mode=unit)=0.01", model)

Importing this package or reading `REGISTRY.rows` does not import PyTorch; the first use of a class does.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import UserError
from regx.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from regx.regularizers.activation import ActivationL1, ActivationL2
    from regx.regularizers.base import Coverage, Regularizer
    from regx.regularizers.elements import L1, L2, ElasticNet, L0Approx
    from regx.regularizers.gates import L0
    from regx.regularizers.group_lasso import GroupLasso, GroupVariance, SparseGroupLasso
    from regx.regularizers.hierarchical import Hierarchical
    from regx.regularizers.jumpstart import Jumpstart
    from regx.regularizers.masks import Prune, Threshold
    from regx.regularizers.orthogonal import Orthogonal
    from regx.regularizers.preactivations import Preactivations
    from regx.regularizers.spec import Spec, parse
    from regx.regularizers.strength import Controller, Strength
    from regx.regularizers.weights import WeightPenalty

REGISTRY = Registry("regularizer", Path(__file__).parent, __name__)

_MODULES = {
    "activation": ("ActivationL1", "ActivationL2"),
    "base": ("Coverage", "Regularizer"),
    "elements": ("L1", "L2", "ElasticNet", "L0Approx"),
    "gates": ("L0",),
    "group_lasso": ("GroupLasso", "GroupVariance", "SparseGroupLasso"),
    "hierarchical": ("Hierarchical",),
    "jumpstart": ("Jumpstart",),
    "masks": ("Prune", "Threshold"),
    "orthogonal": ("Orthogonal",),
    "preactivations": ("Preactivations",),
    "spec": ("Spec", "parse"),
    "strength": ("Controller", "Strength"),
    "weights": ("WeightPenalty",),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - the order of the table above
    "REGISTRY",
    "create",
    "ActivationL1",
    "ActivationL2",
    "Coverage",
    "Regularizer",
    "L1",
    "L2",
    "ElasticNet",
    "L0Approx",
    "L0",
    "GroupLasso",
    "GroupVariance",
    "SparseGroupLasso",
    "Hierarchical",
    "Jumpstart",
    "Prune",
    "Threshold",
    "Orthogonal",
    "Preactivations",
    "Spec",
    "parse",
    "Controller",
    "Strength",
    "WeightPenalty",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def create(spec: str, model: "nn.Module") -> "Regularizer":
    """Attaches the regularizer that `spec` describes to `model`.

    Args:
        spec: as `parse` reads it, for instance `"group_lasso(groups=filters, prox=true)=1e-4"`.
        model: the model.

    Returns:
        The regularizer; its `strength` is the one of `spec`, or 1.

    Raises:
        UserError: as `parse`, or the model has nothing that this regularizer could reach, or the spec has a schedule of
            the strength, which is for whoever runs the epochs (`regx.regularizers.Strength`).
    """
    from regx.regularizers.spec import parse

    found = parse(spec)
    if found.schedule:
        raise UserError(
            f"{next(iter(found.schedule))!r} is about epochs, of which a regularizer knows nothing; set its `strength`"
            " from regx.regularizers.Strength(...).at(epoch, epochs)",
            "spec",
        )
    regularizer = REGISTRY[found.name].load()(model, **found.options)
    if found.strength is not None:
        regularizer.strength = found.strength
    return regularizer
