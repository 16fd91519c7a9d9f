"""L0 regularization: stochastic gates on output channels and units, which a penalty on their number closes."""

import functools
import math
import zlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

from regx.errors import UserError, did_you_mean
from regx.parameters import Bounds
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.base import Coverage, Regularizer
from regx.regularizers.cost import Layer, Trace, batch_size, channels, layers, size, trace
from regx.regularizers.generators import Generators
from regx.regularizers.hooks import Hook
from regx.regularizers.selection import split_globs
from regx.regularizers.weights import gradient_of

GAMMA, ZETA = -0.1, 1.1  # the interval to which the concrete distribution is stretched before it is cut to [0, 1]
EPSILON = 1e-6  # the noise stays this far from 0 and 1
LOG_ALPHA_MIN, LOG_ALPHA_MAX = math.log(0.01), math.log(100)


@register(
    "l0",
    kind="gates",
    zeros="gates",
    formula="sum_g cost_g * P(z_g != 0) / sum_g cost_g, P = sigmoid(log_alpha_g + temperature * log 11)",
    example="l0(droprate_init=0.2, cost=macs)=0.5",
    source="Louizos, Welling, Kingma, ICLR 2018, arXiv:1712.01312; AMLab-Amsterdam/L0_regularization",
)
class L0(Regularizer):
    """Multiplies output channels and units by hard concrete gates and penalises how many of them are open.

    Every output channel of the gated layers has a parameter log_alpha and a gate z, with gamma = -0.1, zeta = 1.1:

        s = sigmoid((log u - log(1 - u) + log_alpha) / temperature)    u ~ U(1e-6, 1 - 1e-6)
        z = min(1, max(0, s * (zeta - gamma) + gamma))                 model in training mode
        z = min(1, max(0, sigmoid(log_alpha) * (zeta - gamma) + gamma))    model in evaluation mode
        P(z != 0) = sigmoid(log_alpha - temperature * log(-gamma / zeta))
        loss = sum_g cost_g * P_g / sum_g cost_g
             + l2 * (sum_g P_g * |w_g|^2 / 2 + sum_g b_g^2 / 2)        w_g, b_g: weights and bias of the channel

    In evaluation mode a gate is exactly 0 where log_alpha <= -2.398 and exactly 1 where log_alpha >= 2.398.

        with L0(model) as regularizer:
            optimizer = Adam([{"params": model.parameters()}, {"params": regularizer.parameters(), "weight_decay": 0}])
            loss = cross_entropy(model(x), y) + regularizer.strength * regularizer.loss
            loss.backward()
            optimizer.step()
            regularizer.step(optimizer)
            ...
            regularizer.fold()    # after the last step: the gates go into the weights

    A copy or pickle of the model has no gates: `fold` first.

    Weight decay on log_alpha would pull every gate half open: whoever builds the optimiser gives it none.

    Forward hooks do the multiplication, so any model will do, but it must be called as a whole. The first forward pass
    is preceded by a dry run on the same inputs, in evaluation mode and without gradients, which leaves no mark on the
    model or on the global random state. It shows which layers are followed directly by batch normalisation; the gate
    stands after that, as batch normalisation would undo its scale. While the strength was never above 0 the gates are
    asleep: the model computes exactly what it does without them. Once awake they stay so. All gates draw from a
    random generator of their own, whose seed depends on `torch.initial_seed()` and the names of the layers.

    AMLab's code gates the inputs of dense layers, counts an open gate once per weight, and divides by the size of the
    data set (`cost=parameters, normalize=false` and a strength divided by that size come near);
    bobondemon/l0_regularization_practice gates the output channels of convolutions per sample and divides by the number
    of gates (here `noise=sample`).

    Args:
        include: layers to gate: globs of module names, joined by `|` (`layer3.*|layer4.*`); all where none is given.
        exclude: layers to leave out, likewise.
        droprate_init: initial log_alpha ~ N(log((1 - d) / d), 0.01^2) for this value d.
        temperature: temperature of the concrete distribution; below 1, gates are mostly near 0 or 1.
        noise: `batch`: one draw per channel and forward pass; `sample`: one per channel and sample.
        cost: what an open gate costs. `gates`: 1; `parameters`: the weights, bias and batch normalisation parameters of
            its channel; `macs`: the multiply-accumulates of its channel per sample.
        normalize: divide by the total cost, so that the penalty lies between 0 and 1.
        l2: factor of the squared weights, weighted by the probability that their gate is open.
        skip_last: leave out the last layer, usually the output.
        clamp: keep log_alpha within [log 0.01, log 100] after every step, so that no gate is lost for good.

    Raises:
        UserError: an option is not legal, a glob matches no layer, or the model has nothing to gate.
    """

    of_parameters = True

    def __init__(
        self,
        model: nn.Module,
        *,
        include: str | None = None,
        exclude: str | None = None,
        droprate_init: Annotated[float, Bounds(0.01, 0.99)] = 0.5,
        temperature: Annotated[float, Bounds(above=0)] = 0.6666666666666666,
        noise: Literal["batch", "sample"] = "batch",
        cost: Literal["gates", "parameters", "macs"] = "gates",
        normalize: bool = True,
        l2: Annotated[float, Bounds(0)] = 0.0,
        skip_last: bool = True,
        clamp: bool = True,
    ) -> None:
        REGISTRY["l0"].check(
            {
                "include": include,
                "exclude": exclude,
                "droprate_init": droprate_init,
                "temperature": temperature,
                "noise": noise,
                "cost": cost,
                "normalize": normalize,
                "l2": l2,
                "skip_last": skip_last,
                "clamp": clamp,
            }
        )
        self.model = model
        self.droprate_init = droprate_init
        self.temperature = temperature
        self.noise = noise
        self.cost = cost
        self.normalize = normalize
        self.l2 = l2
        self.clamp = clamp
        self.layers = _selected(model, include, exclude, skip_last)
        self.sizes = tuple(channels(layer) for layer in self.layers.values())
        self._random = Generators()
        # Gates on other layers of the same model must not draw the same.
        seed = torch.initial_seed() ^ zlib.crc32("|".join(self.layers).encode())
        self._random.on(next(iter(self.layers.values())).weight.device).manual_seed(seed)
        weight = next(iter(self.layers.values())).weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.log_alpha = nn.Parameter(torch.empty(sum(self.sizes), device=weight.device, dtype=dtype))
        self._gamma = torch.full((), GAMMA, device=weight.device, dtype=dtype)
        self._awake = self._folded = self._open = False
        self.reset()
        self._trace: Trace | None = None
        self._costs: Tensor | None = None  # (G,), summing to 1 where normalised
        self._running = False
        self._sample: Tensor | None = None  # (G,) or (N, G): gates of the last forward pass
        self._slices: dict[torch.dtype, tuple[Tensor, ...]] = {}  # the same, per layer, in the precisions asked for
        self._handles = [
            model.register_forward_pre_hook(Hook(self._start), with_kwargs=True),
            model.register_forward_hook(Hook(self._stop)),
        ]

    def __repr__(self) -> str:
        return (
            f"L0(noise={self.noise!r}, cost={self.cost!r}, layers={len(self.layers)}, gates={sum(self.sizes)},"
            f" awake={self.awake}, folded={self.folded})"
        )

    @property
    def awake(self) -> bool:
        """Whether the strength is or was, at some forward pass, above 0; before that the gates do nothing."""
        return self._awake or self.strength > 0

    @property
    def folded(self) -> bool:
        """Whether the gates are in the weights; the hooks then do nothing."""
        return self._folded

    @property
    def loss(self) -> Tensor:
        """Unscaled penalty: 0-dimensional, differentiable in log_alpha and, with `l2`, in the weights.

        Raises:
            UserError: `cost` is not `gates` and there was no forward pass yet.
        """
        probability = self.open_probability()
        penalty = (probability * self._cost_of_gates()).sum()  # more exact than dot, which adds one by one
        return penalty + self.l2 * self._half_squares(probability) if self.l2 else penalty

    def add_gradients(self) -> None:
        """Adds the gradient of `strength * loss` to the `.grad` of log_alpha and, with `l2`, of the weights.

        Raises:
            UserError: as `loss`.
        """
        if not self.strength:
            return
        with torch.no_grad():
            probability = self.open_probability()
            costs = self._cost_of_gates()
            if self.l2:
                costs = costs + self.l2 * self._half_squares_by_gate().to(costs)
                gates = probability.split(self.sizes)
                for layer, gate in zip(self.layers.values(), gates, strict=True):
                    weight = _by_channel(layer, layer.weight)
                    factor = gate.to(weight).view(*weight.shape[:2], *[1] * (weight.dim() - 2))
                    _by_channel(layer, gradient_of(layer.weight)).addcmul_(
                        weight, factor, value=self.strength * self.l2
                    )
                    if layer.bias is not None and layer.bias.requires_grad:
                        gradient_of(layer.bias).add_(layer.bias, alpha=self.strength * self.l2)
            if not (self._open or self._folded):
                slope = torch.addcmul(probability, probability, probability, value=-1)
                gradient_of(self.log_alpha).addcmul_(slope, costs, value=self.strength)

    def open_probability(self) -> Tensor:
        """P(z != 0) of every gate (G,), differentiable; constant 1 while they are fixed open."""
        if self._open:
            return torch.ones_like(self.log_alpha, requires_grad=False)
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-GAMMA / ZETA))

    def gates(self) -> dict[str, Tensor]:
        """Layer -> its gates (C,) in evaluation mode; ones while they are asleep or fixed open."""
        with torch.no_grad():
            gates = self._mode() if self.awake and not self._open else torch.ones_like(self.log_alpha)
        return dict(zip(self.layers, gates.split(self.sizes), strict=True))

    def zero_share(self) -> Tensor:
        """Share of the gates that are exactly zero in evaluation mode, 0-d."""
        return (torch.cat(list(self.gates().values())) == 0).to(self.log_alpha.dtype).mean()

    def parameters(self) -> Iterable[nn.Parameter]:
        """log_alpha (G,), to be given to the optimiser without weight decay."""
        return (self.log_alpha,)

    def step(self, optimizer: Optimizer | float) -> None:
        """Clamps log_alpha to [log 0.01, log 100].

        Args:
            optimizer: the optimiser, which must train log_alpha; or a learning rate, which is not looked at.

        Raises:
            UserError: the optimiser does not train log_alpha.
        """
        if isinstance(optimizer, Optimizer) and self._in_effect():
            trained = (p for group in optimizer.param_groups for p in group["params"])
            if not any(p is self.log_alpha for p in trained):
                raise UserError("the optimiser does not train the gates; give it l0.parameters() too")
        if self.clamp:
            with torch.no_grad():
                self.log_alpha.clamp_(LOG_ALPHA_MIN, LOG_ALPHA_MAX)

    def fix_open(self, fixed: bool = True) -> None:
        """Holds all gates open, at exactly 1, with a constant penalty; `False` frees them again."""
        self._open = fixed

    def reset(self, droprate_init: float | None = None) -> None:
        """Draws log_alpha anew, as for the start of a fine-tuning; folded gates are gates again.

        The optimiser's moments of log_alpha are left as they are.

        Args:
            droprate_init: replaces the option of this name; None keeps it.

        Raises:
            UserError: `droprate_init` is out of bounds.
        """
        if droprate_init is not None:
            self.droprate_init = REGISTRY["l0"].check({"droprate_init": droprate_init})["droprate_init"]
        center = math.log((1 - self.droprate_init) / self.droprate_init)
        with torch.no_grad():
            self.log_alpha.normal_(center, 0.01, generator=self._random.on(self.log_alpha.device))
        self._set_folded(False)

    def fold(self) -> None:
        """Multiplies the gates of evaluation mode into the weights, after which the hooks do nothing.

        Where the gate stands after batch normalisation, its weight and bias are multiplied; otherwise the weights and
        the bias of the layer. A closed gate makes the weights and bias of its channel exactly zero in both. Nothing
        happens where the gates change nothing: asleep, fixed open or folded already.

        Raises:
            UserError: there was no forward pass yet, or there are no plain parameters to multiply.
        """
        if not self._in_effect():
            return
        norms = self._traced("fold").batch_norms
        tensors = [self._foldable(name, layer, norms.get(name)) for name, layer in self.layers.items()]
        with torch.no_grad():
            for gate, (weight, others, norm) in zip(self._mode().split(self.sizes), tensors, strict=True):
                # Batch normalisation is the only reader of its layer, so a closed channel needs no weights.
                factor = (gate != 0).to(gate.dtype) if norm else gate
                weight.mul_(factor.view(*weight.shape[:2], *[1] * (weight.dim() - 2)))
                for tensor in others:
                    tensor.mul_(factor)
                for tensor in norm:
                    tensor.mul_(gate)
        self._set_folded(True)

    def coverage(self) -> Coverage:
        """The gated layers with the numbers of their gates and of their weights and biases."""
        parameters = tuple(size(layer) for layer in self.layers.values())
        return Coverage(tuple(self.layers), groups=self.sizes, parameters=parameters, unit="gates")

    def detach(self) -> None:
        """Removes the hooks, and with them the gates: `fold` first where the model shall keep them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._sample = None
        self._slices = {}

    def state_dict(self) -> dict[str, Any]:
        """log_alpha, the state of the random generator, where the gates stand and whether they are awake and folded."""
        return {
            "gates": dict(zip(self.layers, self.sizes, strict=True)),
            "log_alpha": self.log_alpha.detach().clone(),
            "awake": self._awake,
            "folded": self._folded,
            "open": self._open,
            "rng": self._random.state_dict(),
            "positions": None if self._trace is None else dict(self._trace.positions),
            "batch_norms": None if self._trace is None else dict(self._trace.batch_norms),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; log_alpha stays the same tensor, so the optimiser keeps it.

        Raises:
            UserError: the state is another regularizer's or belongs to other layers.
        """
        if state.keys() != self.state_dict().keys():
            raise UserError(f"this is not the state of l0: {', '.join(map(repr, state)) or 'it is empty'}")
        if state["gates"] != dict(zip(self.layers, self.sizes, strict=True)):
            raise UserError(
                f"the state has {sum(state['gates'].values())} gates on {len(state['gates'])} layers, not"
                f" {sum(self.sizes)} on {len(self.layers)}; use the model and the options it was saved with"
            )
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self._awake = state["awake"]
        self._open = state["open"]
        self._set_folded(state["folded"])
        self._random.load_state_dict(state["rng"])
        if state["positions"] is not None:
            self._place(Trace(state["positions"], state["batch_norms"]))

    def _set_folded(self, folded: bool) -> None:
        self._folded = folded
        self.log_alpha.requires_grad_(not folded)  # gates that do nothing any more shall not move
        if folded:
            self.log_alpha.grad = None

    def _in_effect(self) -> bool:
        return self.awake and not self._open and not self._folded

    def _mode(self) -> Tensor:
        """Gates (G,) of evaluation mode."""
        return self._stretched(torch.sigmoid(self.log_alpha))

    def _stretched(self, s: Tensor) -> Tensor:
        """s from (0, 1) to (gamma, zeta), cut to [0, 1]: two kernels."""
        return F.hardtanh(torch.add(self._gamma, s, alpha=ZETA - GAMMA), 0.0, 1.0)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Logistic noise."""
        device = self.log_alpha.device
        noise = torch.empty(shape, device=device, dtype=self.log_alpha.dtype)
        return noise.uniform_(EPSILON, 1 - EPSILON, generator=self._random.on(device)).logit_()

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _before_forward(self, args, kwargs)  # type: ignore[call-arg]

    def _stop(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._running = False

    def _gate(self, i: int, name: str, unit_dim: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Forward hook: the output times the gates of layer `i`."""
        if not self._running:
            self._outside_forward(name)
        if self._sample is None:
            return None
        slices = self._slices.get(output.dtype)
        if slices is None:
            slices = self._sample.to(output.dtype).split(self.sizes, -1)
            self._slices[output.dtype] = slices
        gate = slices[i]
        if gate.dim() == 2 and output.shape[0] != gate.shape[0]:
            raise UserError(
                f"the output of {name!r} has {output.shape[0]} rows for {gate.shape[0]} samples, so that their gates"
                " cannot be assigned; use noise='batch'",
                "noise",
            )
        if unit_dim == -1:
            if gate.dim() == 2 and output.dim() > 2:
                gate = gate.view(gate.shape[0], *[1] * (output.dim() - 2), -1)
        else:
            gate = gate.view(*gate.shape, *[1] * unit_dim)
        return output * gate

    def _outside_forward(self, name: str) -> None:
        """A layer was called by itself: by an activation checkpoint in the backward pass, or by hand."""
        if not self._in_effect():
            self._sample = None
        elif not self.model.training:
            self._sample, self._slices = self._mode(), {}
        elif self._sample is None:
            raise UserError(f"{name!r} has no gates yet: call the whole model first, as model(x)")

    def _place(self, found: Trace) -> None:
        """Sets the hooks that multiply."""
        for handle in self._handles[2:]:
            handle.remove()
        self._handles = self._handles[:2]
        modules = dict(self.model.named_modules())
        for i, (name, layer) in enumerate(self.layers.items()):
            norm = found.batch_norms.get(name)
            if norm is not None and norm not in modules:
                raise UserError(f"the model has no {norm!r}, after which the state has the gates of {name!r}")
            # Units are last for a linear layer, else followed by the spatial dimensions.
            unit_dim = -1 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2
            hook = Hook(functools.partial(self._gate, i, name, unit_dim))
            if self._handles:
                self._handles.append((layer if norm is None else modules[norm]).register_forward_hook(hook))
        self._trace = found
        self._costs = None

    def _traced(self, what: str) -> Trace:
        if self._trace is None:
            raise UserError(f"{what} needs to know what follows the layers: call the model once before, as model(x)")
        return self._trace

    def _norm(self, name: str) -> nn.Module | None:
        """Batch normalisation after which the gates of a layer stand."""
        norm = self._traced("this").batch_norms.get(name)
        return None if norm is None else self.model.get_submodule(norm)

    def _cost_of_gates(self) -> Tensor:
        """(G,)"""
        if self._costs is None:
            found = None if self.cost == "gates" else self._traced(f"cost={self.cost}")
            costs: list[float] = []
            for (name, layer), units in zip(self.layers.items(), self.sizes, strict=True):
                if found is None:
                    value = 1
                elif self.cost == "macs":
                    value = layer.weight.numel() // units * found.positions[name]
                else:
                    norm = self._norm(name)
                    affine = 0 if norm is None else sum(x.numel() for x in norm.parameters(recurse=False))
                    value = (size(layer) + affine) // units
                costs += [value] * units
            total = sum(costs) if self.normalize else 1
            self._costs = torch.tensor([value / total for value in costs]).to(self.log_alpha)
        return self._costs

    def _half_squares(self, probability: Tensor) -> Tensor:
        """Half the squared weights, times the probability that their gate is open, and half the squared biases."""
        biases = [layer.bias.square().sum() for layer in self.layers.values() if layer.bias is not None]
        total = (probability * self._half_squares_by_gate()).sum()
        return total + torch.stack(biases).sum() / 2 if biases else total

    def _half_squares_by_gate(self) -> Tensor:
        """(G,)"""
        weights = [_by_channel(layer, layer.weight) for layer in self.layers.values()]
        return torch.cat([weight.flatten(2).square().sum(2).flatten() for weight in weights]) / 2

    def _foldable(self, name: str, layer: Layer, norm_name: str | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Weights by channel, the bias if there is one, and the parameters of batch normalisation where it follows."""
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        if weight is None or (bias is None and layer.bias is not None):
            raise UserError(f"the weights of {name!r} are computed from others; remove that parametrization, then fold")
        norm: list[Tensor] = []
        if norm_name is not None:
            norm = list(self.model.get_submodule(norm_name).parameters(recurse=False))
            if len(norm) != 2:
                raise UserError(
                    f"{norm_name!r} behind {name!r} has no weight and bias to fold gates into; use affine=True"
                )
        used = [id(x) for module in self.model.modules() for x in module._parameters.values()]
        if any(used.count(id(x)) > 1 for x in (weight, bias, *norm) if x is not None):
            raise UserError(
                f"{name!r} shares its parameters with another module, which gates must not change; exclude it"
            )
        return _by_channel(layer, weight), [] if bias is None else [bias], norm


@torch.compiler.disable
def _before_forward(l0: L0, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Draws the gates of a forward pass; before the first one, finds where they stand."""
    if l0._trace is None:
        found = trace(l0.model, args, kwargs)
        missing = [name for name in l0.layers if not found.positions[name]]
        if missing:
            raise UserError(
                f"{len(missing)} of the gated layers did not run in evaluation mode ({', '.join(missing[:3])});"
                " name them in exclude"
            )
        l0._place(found)
    l0._running = True
    l0._sample, l0._slices = None, {}
    if l0.strength > 0:
        l0._awake = True
    if not l0._in_effect():
        return
    if l0.model.training:
        gates = l0.log_alpha.shape if l0.noise == "batch" else (batch_size(args, kwargs), *l0.log_alpha.shape)
        l0._sample = l0._stretched(torch.sigmoid((l0._draw(gates) + l0.log_alpha) / l0.temperature))
    else:
        l0._sample = l0._mode()


def _by_channel(layer: Layer, weight: Tensor) -> Tensor:
    """View of the weights with their output channels in the first two dimensions: (groups, C / groups, ...)."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    parts = weight.unflatten(0, (groups, -1))
    return parts.transpose(1, 2) if isinstance(layer, _ConvTransposeNd) else parts


def _selected(model: nn.Module, include: str | None, exclude: str | None, skip_last: bool) -> dict[str, Layer]:
    found = layers(model)
    names = list(found)[: len(found) - skip_last]
    for option, globs, known in (("include", include, names), ("exclude", exclude, list(found))):
        for glob in [] if globs is None else split_globs(globs):
            if not any(fnmatchcase(name, glob) for name in known):
                last = " (skip_last=True leaves out the last one)" if skip_last and option == "include" else ""
                raise UserError(
                    f"{glob!r} matches none of the {len(known)} linear and convolutional layers{last}"
                    f"{did_you_mean(glob, known)}",
                    option,
                )
    if include is not None:
        names = [name for name in names if any(fnmatchcase(name, glob) for glob in split_globs(include))]
    if exclude is not None:
        names = [name for name in names if not any(fnmatchcase(name, glob) for glob in split_globs(exclude))]
    if not names:
        raise UserError(
            f"{type(model).__name__} has no layers to gate: linear and convolutional modules"
            f"{', the last one left out (skip_last=True)' if skip_last else ''}"
        )
    return {name: found[name] for name in names}
