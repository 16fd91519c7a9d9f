"""Reads the pre-activations of a model through forward hooks and reduces them to the extremes that Jumpstart needs."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from regx.errors import UserError, did_you_mean

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
_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_NEVER = (nn.Embedding, nn.EmbeddingBag, *ACTIVATIONS)  # an embedding has no pre-activation, PReLU's weight is no layer


@dataclass(frozen=True)
class Group:
    """Extremes of `L` layers that have the same number of points `N` and of units `C`.

    Attributes:
        positions: where each of the `L` layers stands in `Extremes.layers`.
        unit_max: (L, C) largest pre-activation of every unit over all dimensions but the unit dimension.
        unit_min: (L, C) smallest one.
        point_max: (L, N) largest pre-activation of every point over all dimensions but the first.
        point_min: (L, N) smallest one.
    """

    positions: tuple[int, ...]
    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor


@dataclass(frozen=True)
class Extremes:
    """Extremes of one forward pass; differentiable where the forward pass was.

    Attributes:
        layers: name of each hooked call, in the order of the forward pass.
        groups: the layers, grouped by shape.
    """

    layers: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass
class _Entry:
    """One hooked call: a 2-D tensor that waits to be reduced together with its like, or a finished reduction."""

    name: str
    shape: tuple[int, int]
    waiting: Tensor | None = None
    version: int = 0
    reduced: tuple[Tensor, ...] = ()


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
    ) -> None:
        _check_choice("hook_at", hook_at, get_args(HookAt))
        _check_choice("tie_breaking", tie_breaking, get_args(TieBreaking))
        if unit_dim == 0:
            raise UserError("0 is the dimension of the points; use 1 for (N, C, ...) or -1 for (N, T, C)", "unit_dim")
        self.hook_at = hook_at
        self.tie_breaking = tie_breaking
        self.unit_dim = unit_dim
        names = [name for name in _modules(model) if not (skip_downsample and "downsample" in name)]
        modules = _modules(model)
        if hook_at == "activation":
            hooked = [name for name in names if isinstance(modules[name], ACTIVATIONS)]
            if not hooked:
                raise UserError(
                    f"{type(model).__name__} has no activation modules to hook; give it nn.ReLU, nn.GELU, ... modules"
                    " or, where its activations are functions, use hook_at='layer'",
                    "hook_at",
                )
        else:
            left_out = (*_NEVER, *_NORMALIZATIONS) if skip_batchnorm else _NEVER
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
        self._random = _Generators()
        self._recording = False
        self._with_grad = True
        self._calls: dict[str, int] = {}
        self._entries: list[_Entry] = []
        self._extremes: Extremes | None = None
        self._handles = [model.register_forward_pre_hook(_Hook(self._start))]
        for name in hooked:
            if hook_at == "activation":
                hook = _Hook(functools.partial(self._before_activation, name))
                self._handles.append(modules[name].register_forward_pre_hook(hook))
            else:
                hook = _Hook(functools.partial(self._after_layer, name))
                self._handles.append(modules[name].register_forward_hook(hook))
        self._handles.append(model.register_forward_hook(_Hook(self._stop)))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the calls of the last forward pass; of the hooked modules where there was none yet."""
        if self._extremes is not None:
            return self._extremes.layers
        return tuple(entry.name for entry in self._entries) or self.hooked

    @property
    def has_run(self) -> bool:
        """Whether a forward pass has been collected."""
        return self._extremes is not None or bool(self._entries)

    def extremes(self) -> Extremes:
        """Extremes of the last forward pass: computed once, then kept; the pre-activations themselves are released.

        The result is differentiable where the forward pass was, whatever the gradient mode of the caller.

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

    def _why_empty(self) -> str:
        if not self._handles:
            return "the hooks were detached; create the regularizer anew"
        if self._recording:
            return "the forward pass has not finished, so there are no pre-activations yet"
        return f"no pre-activations yet: call the model first, as model(x), so that it runs {self.hooked[0]!r}"

    def _start(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._recording = True
        self._with_grad = torch.is_grad_enabled()
        self._calls = {}
        self._entries = []
        self._extremes = None

    def _stop(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._recording = False
        self._calls = {}

    def _before_activation(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        self._collect(name, x, overwritten=bool(getattr(module, "inplace", False)))

    def _after_layer(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # What comes next may well be an in-place activation; the layer cannot know.
        self._collect(name, output, overwritten=True)

    def _collect(self, name: str, x: Any, overwritten: bool) -> None:
        if not isinstance(x, Tensor) or x.dim() < 2:
            what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{type(x).__name__}"
            raise UserError(f"pre-activation of {name!r} is {what}; Jumpstart needs a tensor (N, C) or (N, C, ...)")
        if x.dim() == 2:
            if overwritten:
                x = x.clone()
            entry = _Entry(name, (x.shape[0], x.shape[1]), waiting=x, version=_version(x))
        else:
            if not -x.dim() < self.unit_dim < x.dim():
                raise UserError(f"{self.unit_dim} is no unit dimension of {tuple(x.shape)} in {name!r}", "unit_dim")
            units = x.shape[self.unit_dim]
            entry = _Entry(name, (x.shape[0], units), reduced=self._reduce_one(x, overwritten))
        # Outside a forward pass of the model (activation checkpoints run again in the backward pass) all is computed,
        # as the checkpoint compares what is saved, but nothing is kept.
        if self._recording:
            count = self._calls.get(name, 0)
            self._calls[name] = count + 1
            if count:
                entry.name = f"{name}:{count}"
            self._entries.append(entry)

    def _reduce_one(self, x: Tensor, overwritten: bool) -> tuple[Tensor, ...]:
        """(C,), (C,), (N,), (N,) of a tensor with more than two dimensions."""
        if self.tie_breaking == "average":
            x = x.clone() if overwritten else x
            x = _widened(x)
            unit_dim = self.unit_dim % x.dim()
            others = [dim for dim in range(x.dim()) if dim != unit_dim]
            rest = list(range(1, x.dim()))
            return x.amax(others), x.amin(others), x.amax(rest), x.amin(rest)
        return _SpatialExtremes.apply(x, self.unit_dim, self._generator(x))  # type: ignore[no-any-return]

    def _reduce_stack(self, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        """(L, C), (L, C), (L, N), (L, N) of `L` tensors (N, C)."""
        if self.tie_breaking == "average":
            x = _widened(torch.stack(tensors))
            return x.amax(1), x.amin(1), x.amax(2), x.amin(2)
        return _StackedExtremes.apply(self._generator(tensors[0]), *tensors)  # type: ignore[no-any-return]

    def _generator(self, x: Tensor) -> torch.Generator | None:
        return self._random.on(x.device) if self.tie_breaking == "random" else None

    def _reduce_all(self) -> Extremes:
        alike: dict[Any, list[int]] = {}
        for position, entry in enumerate(self._entries):
            x = entry.waiting
            if x is not None and _version(x) != entry.version:
                raise UserError(
                    f"the pre-activation of {entry.name!r} was changed in place after its activation; remove that"
                    " in-place operation from the model or use hook_at='layer'"
                )
            key = (entry.shape, None) if x is None else (entry.shape, x.dtype, x.device)
            alike.setdefault(key, []).append(position)
        groups = []
        for positions in alike.values():
            entries = [self._entries[position] for position in positions]
            waiting = [entry.waiting for entry in entries if entry.waiting is not None]
            if waiting:
                extremes = self._reduce_stack(waiting)
            else:
                extremes = [torch.stack(parts) for parts in zip(*(entry.reduced for entry in entries), strict=True)]
            groups.append(Group(tuple(positions), *extremes))
        return Extremes(tuple(entry.name for entry in self._entries), tuple(groups))


class _Hook:
    """Calls a method of `Preactivations`; in a copied or unpickled model it has none to call and does nothing."""

    def __init__(self, call: Callable[..., None] | None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        if self.call is not None:
            self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Hook":
        return _Hook(None)

    def __reduce__(self) -> tuple[type, tuple[None]]:
        return _Hook, (None,)


class _Generators:
    """One random generator per device, apart from the global ones: what they draw changes nothing else in a run."""

    def __init__(self) -> None:
        self._of: dict[str, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if str(device) not in self._of:
            self._of[str(device)] = torch.Generator(device).manual_seed(torch.initial_seed())
        return self._of[str(device)]

    def state_dict(self) -> dict[str, Any]:
        return {device: generator.get_state() for device, generator in self._of.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for device, value in state.items():
            self.on(torch.device(device)).set_state(value.cpu())


class _StackedExtremes(torch.autograd.Function):
    """Extremes of `L` tensors (N, C): one kernel per extreme, and one buffer for all gradients.

    Saves four small index tensors and no activation.
    """

    @staticmethod
    def forward(ctx: Any, generator: torch.Generator | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        x = torch.stack(tensors)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.set_materialize_grads(False)
        found = [x.max(1), x.min(1), x.max(2), x.min(2)]  # of equal extremes, torch gives the first
        values = [value for value, _ in found]
        indices = [index for _, index in found]
        if generator is not None:
            indices = [_random_tie(x, values[i], (1, 1, 2, 2)[i], generator) for i in range(4)]
        ctx.save_for_backward(*indices)
        return tuple(_widened(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        indices = ctx.saved_tensors
        total = indices[0].new_zeros(ctx.shape, dtype=ctx.dtype)
        # One after the other: no scatter has two sources for one place, so the sum's order, and the sum, are fixed.
        for dim, index, grad in zip((1, 1, 2, 2), indices, grads, strict=True):
            if grad is not None:
                total = total.scatter_add_(dim, index.unsqueeze(dim), grad.to(ctx.dtype).unsqueeze(dim))
        return None, *total.unbind(0)


class _SpatialExtremes(torch.autograd.Function):
    """Extremes of one tensor with more than two dimensions.

    Saves the storage positions of the 2 (N + C) extremes and no activation, so the activation may be overwritten.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, unit_dim: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        moved = x.movedim(unit_dim, 1)
        flat = moved.flatten(2)
        if not _is_dense(flat):
            flat = flat.contiguous()
        points, units, _ = flat.shape
        highest, lowest = flat.amax(2), flat.amin(2)
        found = [highest.max(0), lowest.min(0), highest.max(1), lowest.min(1)]
        values = [value for value, _ in found]
        if generator is None:
            all_points = torch.arange(points, device=x.device)
            all_units = torch.arange(units, device=x.device)
            positions = []
            for unit, point, extreme in ((found[0], found[2], torch.argmax), (found[1], found[3], torch.argmin)):
                n = torch.cat([unit[1], all_points])
                c = torch.cat([all_units, point[1]])
                positions.append(_storage_positions(flat, n, c, extreme(flat[n, c], 1)))
            at = [part for position in positions for part in position.split([units, points])]
            at = [at[0], at[2], at[1], at[3]]
        else:
            at = _random_positions(flat, values, generator)
        ctx.strides, ctx.moved_shape, ctx.unit_dim, ctx.dtype = flat.stride(), moved.shape, unit_dim, x.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*at)
        return tuple(_widened(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        at = ctx.saved_tensors
        total = at[0].new_zeros(ctx.moved_shape.numel(), dtype=ctx.dtype)
        for position, grad in zip(at, grads, strict=True):
            if grad is not None:
                total = total.scatter_add_(0, position, grad.to(ctx.dtype))
        flat_shape = (*ctx.moved_shape[:2], ctx.moved_shape[2:].numel())
        # Same layout as the activation (channels_last stays so): adding gradients of two layouts is slow.
        grad_x = total.as_strided(flat_shape, ctx.strides).unflatten(2, ctx.moved_shape[2:])
        return grad_x.movedim(1, ctx.unit_dim), None, None


def _storage_positions(flat: Tensor, n: Tensor, c: Tensor, s: Tensor) -> Tensor:
    stride_n, stride_c, stride_s = flat.stride()
    return torch.add(torch.add(n * stride_n, c, alpha=stride_c), s, alpha=stride_s)


def _random_positions(flat: Tensor, values: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    points, units, size = flat.shape
    by_unit = flat.transpose(0, 1).reshape(units, -1)
    by_point = flat.reshape(points, -1)
    at = []
    for i, value in enumerate(values):
        row = torch.arange(len(value), device=flat.device)
        index = _random_tie(by_unit if i < 2 else by_point, value, 1, generator)
        other, s = index // size, index % size
        at.append(_storage_positions(flat, other, row, s) if i < 2 else _storage_positions(flat, row, other, s))
    return at


def _random_tie(x: Tensor, value: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Index along `dim` of one entry that equals `value`, each with the same probability."""
    draw = torch.rand(x.shape, device=x.device, generator=generator)
    return draw.masked_fill_(x != value.unsqueeze(dim), -1).argmax(dim)


def _widened(x: Tensor) -> Tensor:
    """Half precision as float32: losses are means over many extremes."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _is_dense(x: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module; the root, whose name is empty, goes by its class."""
    return {name or type(model).__name__: module for name, module in model.named_modules()}


def _check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"{value!r} is not among its choices{did_you_mean(str(value), choices)}", option)
