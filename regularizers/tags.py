"""Parts of a network by name (stem, block, stage, shortcut, head, ...), derived from the modules of any model.

Nothing has to be marked by hand: what is a block follows from which module holds which layers. A layer is a module with
weights of two and more dimensions of its own, normalisation left out, as in `regx.regularizers.selection`.
"""

from torch import nn

from regx.regularizers.preactivations import NORMALIZATIONS
from regx.regularizers.selection import LAYER_TYPES

# What a component of a shortcut's name contains (`layer2.0.downsample.0`).
_SHORTCUTS = ("downsample", "shortcut", "skip")
# Containers without a computation of their own.
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

# Every tag that there is; a model has some of them.
TAGS = ("conv", "linear", "stem", "head", "shortcut", "block", "stage")


def tags_of(model: nn.Module) -> dict[str, frozenset[str]]:
    """Tags of every layer, keyed by its name.

    * `conv`, `linear`: kind of the layer;
    * `stem`, `head`: the first and the last layer, in the order in which the model defines them;
    * `shortcut`: a component of its name contains downsample, shortcut or skip;
    * `block`, `stage`: it lies in one (`blocks_of`, `stages_of`).

    Args:
        model: the model; its layers may be frozen.
    """
    layers, inside = _tree(model)
    tags = {name: {kind for kind, types in LAYER_TYPES.items() if isinstance(module, types)} for name, module in layers}
    # A module around several layers is a container that has a parameter too (position or class embeddings).
    own = _class_name(model)
    ends = [name for name, _ in layers if len(inside.get("" if name == own else name, ())) < 2]
    if ends:
        tags[ends[0]].add("stem")
        tags[ends[-1]].add("head")
    for name in tags:
        if any(word in part for part in name.lower().split(".") for word in _SHORTCUTS):
            tags[name].add("shortcut")
    for tag, found in (("block", blocks_of(model)), ("stage", stages_of(model))):
        for name in found:
            tags[name].add(tag)
    return {name: frozenset(found) for name, found in tags.items()}


def blocks_of(model: nn.Module) -> dict[str, str]:
    """Name of the block of every layer that lies in one.

    A block is the smallest module that holds two layers and not all (`layer1.0` of a ResNet). Where a module other than
    a plain container (nn.Sequential, nn.ModuleList, nn.ModuleDict) also holds layers beside such containers, as an
    Inception module with branches of one and two convolutions or a transformer layer with attention and MLP, it is the
    block, unless what it holds are several blocks of the former kind.

    Args:
        model: the model.
    """
    layers, inside = _tree(model)
    modules = dict(model.named_modules())
    blocks: dict[str, str] = {}
    for name in reversed(inside):  # inner modules come before outer ones
        held = inside[name]
        if not name or not 2 <= len(held) < len(layers) or all(layer in blocks for layer in held):
            continue
        smaller = {blocks[layer] for layer in held if layer in blocks}
        real = [block for block in smaller if not isinstance(modules[block], _PLAIN)]
        if not smaller or (not isinstance(modules[name], _PLAIN) and len(real) < 2):
            blocks.update(dict.fromkeys(held, name))
    return {name: blocks[name] for name, _ in layers if name in blocks}


def stages_of(model: nn.Module) -> dict[str, str]:
    """Name of the stage of every layer that lies in one.

    A stage is the smallest module around a block that holds two blocks and not all layers (`layer1` of a ResNet).

    Args:
        model: the model.
    """
    layers, inside = _tree(model)
    blocks = blocks_of(model)
    stages = {}
    for layer, block in blocks.items():
        for name in _around(block):
            held = inside[name]
            if len({blocks[other] for other in held if other in blocks}) > 1 and len(held) < len(layers):
                stages[layer] = name
                break
    return stages


def _tree(model: nn.Module) -> tuple[list[tuple[str, nn.Module]], dict[str, list[str]]]:
    """Layers by name, and the layers strictly inside every module that has any, outer modules first."""
    layers, names = [], []
    for name, module in model.named_modules():
        names.append(name)
        weights = [x for x in module.parameters(recurse=False) if x.ndim > 1]
        if weights and not isinstance(module, NORMALIZATIONS):
            layers.append((name, module))
    inside: dict[str, list[str]] = {name: [] for name in names}
    for name, _ in layers:
        for outer in _around(name):
            inside[outer].append(name)
        if name:
            inside[""].append(name)
    layers = [(name or _class_name(model), module) for name, module in layers]
    return layers, {name: held for name, held in inside.items() if held}


def _around(name: str) -> list[str]:
    """Names of the modules around `name`, the smallest first, without the model itself."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _class_name(model: nn.Module) -> str:
    return type(model).__name__
