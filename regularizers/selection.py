"""Which parameters of a model a penalty reaches."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from regx.errors import UserError, did_you_mean
from regx.regularizers.preactivations import NORMALIZATIONS

CONVOLUTIONS = (nn.modules.conv._ConvNd,)
TRANSPOSED = (nn.modules.conv._ConvTransposeNd,)
LAYER_TYPES = {"conv": CONVOLUTIONS, "linear": (nn.Linear, nn.Bilinear)}


@dataclass(frozen=True)
class Weight:
    """A parameter that a penalty reaches.

    Attributes:
        name: its name in the model (`layer1.0.conv1.weight`).
        layer: name of the module that owns it; the class name for the model itself.
        module: that module.
        tensor: the parameter.
    """

    name: str
    layer: str
    module: nn.Module
    tensor: nn.Parameter


def select(
    model: nn.Module,
    *,
    include: str | None = None,
    exclude: str | None = None,
    layer_type: str = "any",
    tag: str | None = None,
    biases: bool = False,
) -> list[Weight]:
    """The parameters that the arguments describe and that are trainable now, each tensor once, in the model's order.

    Args:
        model: the model.
        include: globs joined by `|`, each matched against the full name of a parameter and of its module.
        exclude: globs of what is left out again.
        layer_type: `any`, `conv` or `linear`: kind of the module that owns the parameter.
        tag: part of the network, derived from its modules (see `regx.regularizers.tags`).
        biases: take biases and the parameters of normalisation layers too; without it only tensors with two and more
            dimensions outside normalisation layers count.

    Raises:
        UserError: a glob or tag matches nothing, or nothing is left.
    """
    found = weights_of(model, biases=biases)
    if not found:
        what = "parameters" if biases else "weights of two and more dimensions"
        raise UserError(f"{type(model).__name__} has no trainable {what} to penalise")
    if include is not None:
        found = _matching(found, include, "include")
    if exclude is not None:
        left_out = {weight.name for weight in _matching(found, exclude, "exclude")}
        found = [weight for weight in found if weight.name not in left_out]
    if layer_type != "any":
        found = [weight for weight in found if isinstance(weight.module, LAYER_TYPES[layer_type])]
    if tag is not None:
        from regx.regularizers.tags import tags_of

        tags = tags_of(model)
        known = sorted(set().union(*tags.values()))
        if tag not in known:
            raise UserError(f"{tag!r} is no tag of this {type(model).__name__}{did_you_mean(tag, known)}", "tag")
        found = [weight for weight in found if tag in tags.get(weight.layer, ())]
    if not found:
        asked = {"include": include, "exclude": exclude, "layer_type": layer_type, "tag": tag}
        shown = ", ".join(f"{key}={value}" for key, value in asked.items() if value not in (None, "any"))
        raise UserError(f"no weight of {type(model).__name__} is left by {shown}")
    return found


def weights_of(model: nn.Module, *, biases: bool = False, frozen: bool = False) -> list[Weight]:
    """The parameters with two and more dimensions outside normalisation layers, each tensor once, in the model's order.

    Args:
        model: the model.
        biases: all other parameters too.
        frozen: those that are not trainable too.
    """
    found, seen = [], set()
    for name, module in model.named_modules():
        for own, tensor in module.named_parameters(recurse=False):
            is_weight = tensor.ndim > 1 and not isinstance(module, NORMALIZATIONS)
            if (frozen or tensor.requires_grad) and id(tensor) not in seen and (biases or is_weight):
                seen.add(id(tensor))
                found.append(Weight(f"{name}.{own}" if name else own, name or type(model).__name__, module, tensor))
    return found


def split_globs(globs: str) -> list[str]:
    """`a.* | b.*` as its globs."""
    return [glob.strip() for glob in globs.split("|")]


def _matching(weights: list[Weight], globs: str, option: str) -> list[Weight]:
    chosen = set()
    for glob in split_globs(globs):
        hits = [w.name for w in weights if fnmatchcase(w.name, glob) or fnmatchcase(w.layer, glob)]
        if not hits:
            raise UserError(f"{glob!r} matches no weight{_nearest(glob, weights)}", option)
        chosen.update(hits)
    return [weight for weight in weights if weight.name in chosen]


def _nearest(glob: str, weights: Iterable[Weight]) -> str:
    layers = list(dict.fromkeys(weight.layer for weight in weights))
    text = did_you_mean(glob, layers)
    return text or f"; the weights are {layers[0]} ... {layers[-1]}"
