"""Penalties of what the layers of a network put out: l1 and l2 of activations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.base import Coverage, Regularizer
from regx.regularizers.hooks import Hook
from regx.regularizers.preactivations import ACTIVATIONS, NEVER_HOOKED, NORMALIZATIONS, modules_by_name
from regx.regularizers.precision import HALF

# They keep their output for the backward pass, so nothing that follows may overwrite it.
_KEEPS_OUTPUT = (nn.ReLU, nn.Sigmoid, nn.Tanh)


@dataclass(frozen=True)
class _Call:
    """One hooked call: its name, its number of values per point, and its penalty, 0-d."""

    name: str
    size: int
    value: Tensor


class ActivationPenalty(Regularizer):
    """A penalty of the outputs of the last forward pass; `measure` sums one output.

    The sum is taken inside the hook, before anything that follows can overwrite the output. A module that is called
    several times counts once per call. The hooks stay until `detach()`, which leaves no trace on the model.

    Args:
        model: the model; its hooked outputs have the points (samples) in their first dimension.
        reduction: `mean`: mean over all values of a layer, then over layers, so a strength means the same for any size
            of network and batch; `sum`: sum over the values of each point, mean over points, summed over layers (as
            activity_regularizer of Keras, which divides by the batch size).
        hook_at: `activation`: outputs of activation modules (ReLU, GELU, ...; not softmax); `layer`: outputs of modules
            with a weight, except normalisation and embeddings.
        skip_last: leave out the last layer, usually the output of the network (`hook_at=layer` only).

    Raises:
        UserError: an option is not legal, or the model has nothing to hook.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        reduction: Literal["mean", "sum"] = "mean",
        hook_at: Literal["activation", "layer"] = "activation",
        skip_last: bool = True,
    ) -> None:
        self.reduction, self.hook_at = reduction, hook_at
        modules = modules_by_name(model)
        if hook_at == "activation":
            hooked = [name for name, module in modules.items() if isinstance(module, ACTIVATIONS)]
            advice = "use nn.ReLU, nn.GELU, ... modules or, where its activations are functions, hook_at=layer"
        else:
            left_out = (*NEVER_HOOKED, *NORMALIZATIONS)
            hooked = [
                name
                for name, module in modules.items()
                if getattr(module, "weight", None) is not None and not isinstance(module, left_out)
            ]
            hooked = hooked[: len(hooked) - skip_last]
            advice = f"skip_last is {skip_last}; use hook_at=activation or a larger model"
        if not hooked:
            raise UserError(f"{type(model).__name__} has no {hook_at} modules to hook; {advice}", "hook_at")
        self.hooked = tuple(hooked)
        self._recording = False
        self._counts: dict[str, int] = {}
        self._calls: list[_Call] = []
        self._handles = [model.register_forward_pre_hook(Hook(self._start))]
        for name in hooked:
            self._handles.append(modules[name].register_forward_hook(Hook(self._after(name))))
        self._handles.append(model.register_forward_hook(Hook(self._stop)))

    def measure(self, x: Tensor) -> Tensor:
        """Sum over all values of one output, 0-d."""
        raise NotImplementedError

    @property
    def loss(self) -> Tensor:
        """Unscaled penalty of the last forward pass: 0-dimensional, differentiable where that was.

        Raises:
            UserError: there was no forward pass yet, or it reached none of the hooked modules.
        """
        if not self._handles:
            raise UserError("the hooks were detached; create the regularizer anew")
        if self._recording or not self._calls:
            raise UserError(
                f"no activations yet: call the model first, as model(x), so that it runs {self.hooked[0]!r}"
            )
        values = torch.stack([call.value for call in self._calls])
        return values.mean() if self.reduction == "mean" else values.sum()

    def coverage(self) -> Coverage:
        """The hooked layers, and after a forward pass the number of values per point in each."""
        if not self._calls:
            return Coverage(self.hooked, unit="activations")
        names, sizes = tuple(call.name for call in self._calls), tuple(call.size for call in self._calls)
        return Coverage(names, sizes, unit="activations")

    def detach(self) -> None:
        """Removes the hooks and releases what was collected; may be called again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._calls = [], []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.coverage()}, reduction={self.reduction!r}, hook_at={self.hook_at!r})"

    def _start(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._recording = True
        self._counts, self._calls = {}, []

    def _stop(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._recording = False

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._collect(name, output, isinstance(module, _KEEPS_OUTPUT))

        return hook

    def _collect(self, name: str, x: Any, is_kept: bool) -> None:
        if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
            what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise UserError(
                f"output of {name!r} is {what}; a penalty of activations needs a tensor (N, ...) with values"
            )
        size = x.numel() // len(x)
        if x.dtype in HALF:
            x = x.float()
        elif x.requires_grad and not is_kept:
            # The backward pass needs it as it is now, and an in-place operation may follow.
            x = x.clone()
        value = self.measure(x) / (x.numel() if self.reduction == "mean" else len(x))
        # Outside a forward pass of the model (activation checkpoints run again in the backward pass) all is computed,
        # as the checkpoint compares what is saved, but nothing is kept.
        if self._recording:
            count = self._counts.get(name, 0)
            self._counts[name] = count + 1
            self._calls.append(_Call(f"{name}:{count}" if count else name, size, value))


@register(
    "activation_l1",
    kind="activations",
    zeros="none",
    shares="activation:ActivationPenalty",
    formula="mean |a| over the values of each layer, then over layers; reduction=sum: sum over layers of sum |a| / N",
    example="activation_l1=1e-3",
    source="Glorot, Bordes, Bengio, AISTATS 2011; activity_regularizer of Keras",
)
class ActivationL1(ActivationPenalty):
    """Mean absolute value of the activations: makes them sparse.

    penalty = ActivationL1(model)
    loss = cross_entropy(model(x), y) + 1e-3 * penalty.loss
    """

    def __init__(self, model: nn.Module, **shared: Any) -> None:
        REGISTRY["activation_l1"].check(shared)
        super().__init__(model, **shared)

    def measure(self, x: Tensor) -> Tensor:
        """Sum of |a|, 0-d."""
        return x.abs().sum()


@register(
    "activation_l2",
    kind="activations",
    zeros="none",
    shares="activation:ActivationPenalty",
    formula="mean a^2 over the values of each layer, then over layers; reduction=sum: sum over layers of sum a^2 / N",
    example="activation_l2=1e-3",
    source="Merity, McCann, Socher, arXiv:1708.01009 (activation regularization); activity_regularizer of Keras",
)
class ActivationL2(ActivationPenalty):
    """Mean square of the activations: keeps them small.

    penalty = ActivationL2(model)
    loss = cross_entropy(model(x), y) + 1e-3 * penalty.loss
    """

    def __init__(self, model: nn.Module, **shared: Any) -> None:
        REGISTRY["activation_l2"].check(shared)
        super().__init__(model, **shared)

    def measure(self, x: Tensor) -> Tensor:
        """Sum of a^2, 0-d."""
        return x.square().sum()
