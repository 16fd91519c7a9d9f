"""Reads the pre-activations of a model through forward hooks and reduces them to the extremes that Jumpstart needs."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from regx.errors import UserError, did_you_mean
from regx.regularizers.extremes import SpatialExtremes, StackedExtremes, spatial_values
from regx.regularizers.generators import Generators
from regx.regularizers.precision import widened

HookAt = Literal["activation", "layer"]
TieBreaking = Literal["single", "average", "random"]

# Softmax and other normalising maps are absent: a pre-activation's sign says nothing about them.
ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,  # ReLU6 is one
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
NEVER_HOOKED = (
    nn.Embedding,
    nn.EmbeddingBag,
    *ACTIVATIONS,
)  # an embedding has no pre-activation, PReLU's weight is no layer


@dataclass(frozen=True)
class Group:
    """Extremes of `L` layers that have the same number of points `N` and of units `C`.

    Attributes:
        positions: where each of the `L` layers stands in `Extremes.layers`.
        units: number of units `C`.
        values: (L, 2, C + N) all extremes in one tensor: of every layer the largest values, then the smallest ones; of
            either first those of the units, then those of the points.
    """

    positions: tuple[int, ...]
    units: int
    values: Tensor

    @property
    def unit_max(self) -> Tensor:
        """(L, C) largest pre-activation of every unit over all dimensions but the unit dimension."""
        return self.values[:, 0, : self.units]

    @property
    def unit_min(self) -> Tensor:
        """(L, C) smallest one."""
        return self.values[:, 1, : self.units]

    @property
    def point_max(self) -> Tensor:
        """(L, N) largest pre-activation of every point over all dimensions but the first."""
        return self.values[:, 0, self.units :]

    @property
    def point_min(self) -> Tensor:
        """(L, N) smallest one."""
        return self.values[:, 1, self.units :]


@dataclass(frozen=True)
class Extremes:
    """Extremes of one forward pass; differentiable where the forward pass was.

    Attributes:
        layers: name of each hooked call, in the order of the forward pass.
        groups: the layers, grouped by shape.
    """

    layers: tuple[str, ...]
    groups: tuple[Group, ...]


# One hooked call: name of the module; a tensor (N, C) that waits to be reduced together with its like, or a finished
# reduction (2, C + N); version of the tensor, which in-place operations raise; number of units `C` of a finished
# reduction, None for a waiting tensor. A plain tuple, as a deep narrow network makes 50 of them in a step of 7 ms.
_Entry = tuple[str, Tensor, int, int | None]


class Preactivations:
    """Collects the pre-activations of every forward pass of a model.

    A forward pass of `model` starts a new collection, so `extremes()` always speaks of the last one. The hooks stay
    until `detach()`, which leaves no trace on the model. A deep copy or a pickle of a hooked model carries hooks that
    do nothing.

    Two-dimensional pre-activations of equal shape are reduced together when `extremes()` is called. Larger ones are
    reduced inside the hook, because an in-place activation is about to overwrite them, and only the positions of their
    extremes are kept for the backward pass.

    Args:
        model: any module; (N, C), (N, C, ...) or, with `unit_dim=-1`, (N, ..., C) pre-activations.
        hook_at: `activation` takes the input of every activation module (ReLU, GELU, ...; not softmax): the true
            pre-activation, after batch normalisation and after the addition of a skip connection. A module that is
            called several times counts once per call (`relu`, `relu:1`, ...). `layer` takes the output of every module
            that has a weight, the rule of the Jumpstart reference code (blauigris/jumpstart); PReLU and embeddings are
            left out.
        skip_last: leave out the last layer, usually the output (`layer` only).
        skip_batchnorm: leave out batch, instance, layer, group and RMS normalisation (`layer` only).
        skip_downsample: leave out modules whose name contains `downsample`.
        unit_dim: dimension of the units of pre-activations with more than two dimensions: 1 for (N, C, ...) images and
            series, -1 for (N, T, C) transformers.
        tie_breaking: which of several equal extremes receives the gradient: `single` the first one, `average` all of
            them equally, `random` one drawn uniformly (by a generator of its own, so the global one is left alone).
        differentiable: whether the extremes shall have a gradient in a forward pass that has one. Without it, and in
            forward passes without gradients, nothing but the extremes is looked for, which costs a third.

    Raises:
        UserError: an argument is not legal, or the model has nothing to hook.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        hook_at: HookAt = "activation",
        skip_last: bool = True,
        skip_batchnorm: bool = True,
        skip_downsample: bool = False,
        unit_dim: int = 1,
        tie_breaking: TieBreaking = "single",
        differentiable: bool = True,
    ) -> None:
        _check_choice("hook_at", hook_at, get_args(HookAt))
        _check_choice("tie_breaking", tie_breaking, get_args(TieBreaking))
        if unit_dim == 0:
            raise UserError("0 is the dimension of the points; use 1 for (N, C, ...) or -1 for (N, T, C)", "unit_dim")
        self.hook_at = hook_at
        self.tie_breaking = tie_breaking
        self.unit_dim = unit_dim
        self.differentiable = differentiable
        names = [name for name in modules_by_name(model) if not (skip_downsample and "downsample" in name)]
        modules = modules_by_name(model)
        if hook_at == "activation":
            hooked = [name for name in names if isinstance(modules[name], ACTIVATIONS)]
            if not hooked:
                raise UserError(
                    f"{type(model).__name__} has no activation modules to hook; give it nn.ReLU, nn.GELU, ... modules"
                    " or, where its activations are functions, use hook_at='layer'",
                    "hook_at",
                )
        else:
            left_out = (*NEVER_HOOKED, *NORMALIZATIONS) if skip_batchnorm else NEVER_HOOKED
            hooked = [
                name
                for name in names
                if getattr(modules[name], "weight", None) is not None and not isinstance(modules[name], left_out)
            ]
            hooked = hooked[: len(hooked) - skip_last]
            if not hooked:
                raise UserError(
                    f"{type(model).__name__} has no layers to hook (skip_last={skip_last});"
                    " hook a larger model or use skip_last=False",
                    "hook_at",
                )
        self.hooked = tuple(hooked)
        self._random = Generators()
        self._recording = False
        self._with_grad = True
        self._entries: list[_Entry] = []
        self._extremes: Extremes | None = None
        self._handles = [model.register_forward_pre_hook(_Start(self, ""))]
        for name in hooked:
            if hook_at == "activation":
                self._handles.append(modules[name].register_forward_pre_hook(_Input(self, name)))
            else:
                self._handles.append(modules[name].register_forward_hook(_Output(self, name)))
        self._handles.append(model.register_forward_hook(_Stop(self, "")))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the calls of the last forward pass; of the hooked modules where there was none yet."""
        if self._extremes is not None:
            return self._extremes.layers
        return self._names() or self.hooked

    @property
    def has_run(self) -> bool:
        """Whether a forward pass has been collected."""
        return self._extremes is not None or bool(self._entries)

    def extremes(self) -> Extremes:
        """Extremes of the last forward pass: computed once, then kept; the pre-activations themselves are released.

        The result is differentiable where the forward pass was (and `differentiable` is set), whatever the gradient
        mode of the caller.

        Raises:
            UserError: there was no forward pass since the hooks were set, or it reached none of the hooked modules, or
                a pre-activation was overwritten by an in-place operation that is not the hooked activation's own.
        """
        if self._extremes is None:
            if self._recording or not self._entries:
                raise UserError(self._why_empty())
            with torch.set_grad_enabled(self._with_grad):
                self._extremes = self._reduce_all()
            self._entries = []
        return self._extremes

    def detach(self) -> None:
        """Removes every hook and releases what was collected; may be called again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._entries = []
        self._extremes = None

    def state_dict(self) -> dict[str, Any]:
        """State of the random tie breaking, for a bit-identical continuation; empty for the other ones."""
        return self._random.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self._random.load_state_dict(state)

    def _names(self) -> tuple[str, ...]:
        return _call_names(tuple([entry[0] for entry in self._entries]))

    def _why_empty(self) -> str:
        if not self._handles:
            return "the hooks were detached; create the regularizer anew"
        if self._recording:
            return "the forward pass has not finished, so there are no pre-activations yet"
        return f"no pre-activations yet: call the model first, as model(x), so that it runs {self.hooked[0]!r}"

    def _start(self) -> None:
        self._recording = True
        self._with_grad = self.differentiable and torch.is_grad_enabled()
        self._entries = []
        self._extremes = None

    def _collect(self, name: str, x: Any, overwritten: bool) -> None:
        """Takes one pre-activation; `overwritten`: whether an in-place operation may follow."""
        if not isinstance(x, Tensor) or x.dim() < 2:
            what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{type(x).__name__}"
            raise UserError(f"pre-activation of {name!r} is {what}; Jumpstart needs a tensor (N, C) or (N, C, ...)")
        units = None
        if x.dim() > 2:
            if not -x.dim() < self.unit_dim < x.dim():
                raise UserError(f"{self.unit_dim} is no unit dimension of {tuple(x.shape)} in {name!r}", "unit_dim")
            units = x.shape[self.unit_dim]
            x = self._reduce_one(x, overwritten)
        elif overwritten:
            x = x.clone()
        # Outside a forward pass of the model (activation checkpoints run again in the backward pass) all is computed,
        # as the checkpoint compares what is saved, but nothing is kept.
        if self._recording:
            self._entries.append((name, x, _version(x), units))

    def _reduce_one(self, x: Tensor, overwritten: bool) -> Tensor:
        """(2, C + N) of a tensor with more than two dimensions."""
        if not (self.differentiable and torch.is_grad_enabled() and x.requires_grad):
            return spatial_values(x.detach(), self.unit_dim)
        if self.tie_breaking == "average":
            x = x.clone() if overwritten else x
            x = widened(x)
            unit_dim = self.unit_dim % x.dim()
            others = [dim for dim in range(x.dim()) if dim != unit_dim]
            rest = list(range(1, x.dim()))
            return torch.cat([x.amax(others), x.amax(rest), x.amin(others), x.amin(rest)]).unflatten(0, (2, -1))
        return SpatialExtremes.apply(x, self.unit_dim, self._generator(x))  # type: ignore[no-any-return]

    def _reduce_stack(self, x: Tensor) -> Tensor:
        """(L, 2, C + N) of (L, N, C)."""
        if self.tie_breaking == "average":
            x = widened(x)
            return torch.cat([x.amax(1), x.amax(2), x.amin(1), x.amin(2)], 1).unflatten(1, (2, -1))
        return StackedExtremes.apply(x, self._generator(x))  # type: ignore[no-any-return]

    def _generator(self, x: Tensor) -> torch.Generator | None:
        return self._random.on(x.device) if self.tie_breaking == "random" else None

    def _reduce_all(self) -> Extremes:
        alike: dict[Any, list[int]] = {}
        for position, (module, x, version, units) in enumerate(self._entries):
            if version != (0 if x.is_inference() else x._version):
                raise UserError(
                    f"the pre-activation of {module!r} was changed in place after its activation; remove that"
                    " in-place operation from the model or use hook_at='layer'"
                )
            alike.setdefault((units, x.shape, x.dtype, x.get_device()), []).append(position)
        groups = []
        for (units, shape, _, _), positions in alike.items():
            x = torch.stack([self._entries[position][1] for position in positions])
            if units is None:
                groups.append(Group(tuple(positions), shape[1], self._reduce_stack(x)))
            else:
                groups.append(Group(tuple(positions), units, x))
        return Extremes(self._names(), tuple(groups))


class _Hook:
    """A hook that speaks to `Preactivations`; in a copied or unpickled model it has none and does nothing."""

    def __init__(self, preactivations: Preactivations | None, name: str) -> None:
        self.preactivations = preactivations
        self.name = name

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Hook":
        return type(self)(None, self.name)

    def __reduce__(self) -> tuple[type, tuple[None, str]]:
        return type(self), (None, self.name)


class _Start(_Hook):
    """Before the forward pass of the model."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.preactivations is not None:
            self.preactivations._start()


class _Stop(_Hook):
    """After the forward pass of the model."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.preactivations is not None:
            self.preactivations._recording = False


class _Input(_Hook):
    """Before an activation: its input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        preactivations = self.preactivations
        if preactivations is None:
            return
        x = args[0] if args else None
        overwritten = getattr(module, "inplace", False)
        # The common case of `_collect`, without the call: half of what a hook costs.
        if preactivations._recording and not overwritten and isinstance(x, Tensor) and x.dim() == 2:
            preactivations._entries.append((self.name, x, 0 if x.is_inference() else x._version, None))
        else:
            preactivations._collect(self.name, x, overwritten)


class _Output(_Hook):
    """After a layer: its output. What comes next may well be an in-place activation; the layer cannot know."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.preactivations is not None:
            self.preactivations._collect(self.name, output, True)


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


@functools.lru_cache(maxsize=16)  # the same in every step
def _call_names(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Name of every call: that of its module, with `:1`, `:2`, ... for further calls."""
    calls: dict[str, int] = {}
    names = []
    for module in modules:
        count = calls.get(module, 0)
        calls[module] = count + 1
        names.append(f"{module}:{count}" if count else module)
    return tuple(names)


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module; the root, whose name is empty, goes by its class."""
    return {name or type(model).__name__: module for name, module in model.named_modules()}


def _check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"{value!r} is not among its choices{did_you_mean(str(value), choices)}", option)
