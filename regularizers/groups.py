"""How weights are cut into groups: filters, channels, kernels, rows, blocks, ... as views, never as copies or loops."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regx.errors import UserError, did_you_mean
from regx.regularizers.precision import widened
from regx.regularizers.selection import CONVOLUTIONS, TRANSPOSED, Weight

# What a group is, by name; rows_cols is two overlapping levels.
KINDS = {
    "units": "what makes one output: a row of a linear layer, a filter of a convolution",
    "filters": "3D: the filter of one output channel of a convolution",
    "channels": "one input channel of a convolution, over all filters",
    "kernels": "2D: one kernel of a convolution, filter by channel",
    "layers": "4D: a whole weight",
    "rows": "one output of a linear layer",
    "cols": "one input of a linear layer",
    "rows_cols": "rows and columns of a linear layer, which overlap",
    "blocks(R,C)": "R outputs by C inputs (a kernel stays whole)",
    "heads(N)": "N equal parts of the outputs; one head of an nn.MultiheadAttention (query, key, value and output)",
    "elements": "every number for itself",
}

_ATTENTION_OUTPUT = nn.modules.linear.NonDynamicallyQuantizableLinear


@dataclass(frozen=True)
class Part:
    """How one weight is cut.

    Attributes:
        shape: shape that the weight is viewed with; only dimensions are split, so it is a view for any strides.
        keep: dimensions of that view that tell the groups apart; the others are within a group.
    """

    shape: tuple[int, ...]
    keep: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Sizes of the dimensions that are kept."""
        return tuple(self.shape[dim] for dim in self.keep)

    def view(self, x: Tensor) -> Tensor:
        """The weight, or a tensor of its shape, in the shape of the cut."""
        return x if tuple(x.shape) == self.shape else x.view(self.shape)

    @property
    def within(self) -> list[int]:
        """Dimensions of the view that lie within a group."""
        return [dim for dim in range(len(self.shape)) if dim not in self.keep]

    def sums(self, x: Tensor) -> Tensor:
        """Sum over every group, with the shape `kept`."""
        v = self.view(x)
        return v.sum(self.within) if self.within else v

    def norms(self, x: Tensor) -> Tensor:
        """Euclidean norm of every group, with the shape `kept`."""
        v = widened(self.view(x))
        within = self.within
        if not within:
            return v.abs()
        if within[0] == 0 and self.keep and not (v.requires_grad and torch.is_grad_enabled()):
            # Rows added to rows: several times faster than a reduction that jumps through memory. Autograd takes the
            # norm, whose derivative at zero is zero, where that of the root is not finite.
            v = v.square().sum(0)
            within = [dim - 1 for dim in within[1:]]
            return (v.sum(within) if within else v).sqrt()
        return torch.linalg.vector_norm(v, dim=within)

    def spread(self, values: Tensor) -> Tensor:
        """Values per group, shaped to broadcast against the view."""
        return values.reshape([size if dim in self.keep else 1 for dim, size in enumerate(self.shape)])


class Level:
    """Disjoint groups over a list of weights; a group may span several weights.

    Args:
        parts: how each weight is cut; None for a weight that no group of this level reaches.
        ids: (T,) group number of each of the T pieces that the parts make, one weight after the other; every piece is a
            group of its own without it.
        device: device of the weights.
    """

    def __init__(self, parts: Sequence[Part | None], ids: Tensor | None = None, device: torch.device | None = None):
        self.parts = tuple(parts)
        counts, sizes = [], []
        for part in self.parts:
            count = 0 if part is None else int(torch.Size(part.kept).numel())
            size = 0 if part is None else torch.Size(part.shape).numel() // max(count, 1)
            counts.append(count)
            sizes.append(torch.full((count,), float(size)))
        self.counts = tuple(counts)
        self.ids = None if ids is None else ids.to(device)
        pieces = torch.cat(sizes).to(device)
        self.count = len(pieces) if self.ids is None else int(self.ids.max()) + 1
        # How many numbers each group holds.
        self.sizes = pieces if self.ids is None else pieces.new_zeros(self.count).index_add_(0, self.ids, pieces)

    def norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """(G,) Euclidean norm of every group."""
        found = [part.norms(x).flatten() for part, x in zip(self.parts, tensors, strict=True) if part is not None]
        pieces = found[0] if len(found) == 1 else torch.cat(found)
        if self.ids is None:
            return pieces
        squares = self.total(pieces.square())
        return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)  # with a derivative of zero at zero

    def sums(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """(G,) sum over every group; the tensors have the shapes of the weights."""
        pairs = zip(self.parts, tensors, strict=True)
        found = [part.sums(x).flatten() for part, x in pairs if part is not None and x is not None]
        return self.total(torch.cat(found))

    def total(self, pieces: Tensor) -> Tensor:
        """(G,) sum of (T,) values of the pieces over each group."""
        return pieces if self.ids is None else pieces.new_zeros(self.count).index_add_(0, self.ids, pieces)

    def spread(self, values: Tensor) -> list[Tensor | None]:
        """(G,) values, one tensor per weight that broadcasts against its part's view."""
        pieces = (values if self.ids is None else values[self.ids]).split(self.counts)
        return [None if part is None else part.spread(piece) for part, piece in zip(self.parts, pieces, strict=True)]


def cut(groups: str, weights: list[Weight]) -> tuple[list[Weight], list[Level]]:
    """Cuts weights into groups.

    Args:
        groups: a name of `KINDS`, with numbers where it takes some: `filters`, `blocks(4,2)`, `heads(8)`.
        weights: the selected weights.

    Returns:
        The weights that have such groups, and the levels over them: one, or two that overlap for `rows_cols`.

    Raises:
        UserError: no such groups, or they fit no weight, or blocks or heads do not divide one.
    """
    name, numbers = read_groups(groups)
    first = "rows" if name == "rows_cols" else name
    parts = {weight.name: _part(first, numbers, weight) for weight in weights}
    kept = [weight for weight in weights if parts[weight.name] is not None]
    if not kept:
        shapes = ", ".join(dict.fromkeys("x".join(map(str, w.tensor.shape)) for w in weights))
        raise UserError(f"{groups!r} ({KINDS[_row(name)]}) fits no weight; their shapes are {shapes}", "groups")
    device = kept[0].tensor.device
    if name == "heads":
        return kept, [_head_level(kept, [parts[weight.name] for weight in kept], device)]
    levels = [Level([parts[weight.name] for weight in kept], device=device)]
    if name == "rows_cols":
        levels.append(Level([_part("cols", numbers, weight) for weight in kept], device=device))
    return kept, levels


def _row(name: str) -> str:
    return next(row for row in KINDS if row.partition("(")[0] == name)


def read_groups(groups: str) -> tuple[str, tuple[int, ...]]:
    """Name and numbers of groups, `("blocks", (4, 2))`; raises `UserError` for groups that do not exist."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([\s\d,]*)\))?\s*", groups)
    names = [row.partition("(")[0] for row in KINDS]
    if match is None or match[1] not in names:
        known = match[1] if match else groups
        raise UserError(
            f"{groups!r} is no kind of group{did_you_mean(known, names) or ': ' + ', '.join(KINDS)}", "groups"
        )
    row = _row(match[1])
    wanted = row.count(",") + 1 if "(" in row else 0
    numbers = tuple(int(part) for part in (match[2] or "").split(",") if part.strip())
    if len(numbers) != wanted or 0 in numbers:
        how = f"write {row}, with whole numbers above 0" if wanted else f"{row} takes no numbers"
        raise UserError(f"cannot read {groups!r}; {how}", "groups")
    return match[1], numbers


def _part(name: str, numbers: tuple[int, ...], weight: Weight) -> Part | None:
    """How `weight` is cut into groups called `name`; None where it has none."""
    shape, module = tuple(weight.tensor.shape), weight.module
    if name == "elements":
        return Part(shape, tuple(range(len(shape))))
    if name == "layers":
        return Part(shape, ())
    if len(shape) < 2:
        return None
    is_conv = isinstance(module, CONVOLUTIONS)
    if (name in ("filters", "channels", "kernels") and not is_conv) or (name in ("rows", "cols") and len(shape) > 2):
        return None
    # A transposed convolution has its inputs first: (I, O / groups, ...), any other (O, I / groups, ...).
    split = int(getattr(module, "groups", 1)) if is_conv else 1
    flipped = isinstance(module, TRANSPOSED)
    outputs, inputs = (1, 0) if flipped else (0, 1)
    if name in ("units", "filters", "rows"):
        return _with_split(shape, split, 1) if flipped and split > 1 else Part(shape, (outputs,))
    if name in ("channels", "cols"):
        return _with_split(shape, split, 1) if not flipped and split > 1 else Part(shape, (inputs,))
    if name == "kernels":
        return Part(shape, (0, 1))
    if name == "blocks":
        return _blocks(shape, numbers if not flipped else numbers[::-1], weight)
    return _heads(shape, numbers[0], weight)


def _with_split(shape: tuple[int, ...], groups: int, dim: int) -> Part:
    """Groups of a grouped convolution's second dimension, which counts within each of its `groups`."""
    return Part((groups, shape[0] // groups, *shape[1:]), (0, 1 + dim))


def _blocks(shape: tuple[int, ...], numbers: tuple[int, ...], weight: Weight) -> Part:
    high, wide = numbers
    if shape[0] % high or shape[1] % wide:
        size = "x".join(map(str, shape))
        raise UserError(
            f"blocks of {high} x {wide} do not divide {weight.name} ({size}); use other blocks or exclude it", "groups"
        )
    return Part((shape[0] // high, high, shape[1] // wide, wide, *shape[2:]), (0, 2))


def _heads(shape: tuple[int, ...], count: int, weight: Weight) -> Part | None:
    attention = weight.module if isinstance(weight.module, nn.MultiheadAttention) else None
    if attention is not None and attention.num_heads != count:
        raise UserError(f"{weight.layer} has {attention.num_heads} heads, not {count}", "groups")
    if isinstance(weight.module, _ATTENTION_OUTPUT):
        return Part((shape[0], count, shape[1] // count), (1,))
    if attention is not None and weight.name.endswith("in_proj_weight"):
        return Part((3, count, shape[0] // (3 * count), *shape[1:]), (1,))
    # A transposed convolution has its outputs second: only one without groups has them all there.
    flipped = isinstance(weight.module, TRANSPOSED)
    split = int(weight.module.groups) if flipped else 1  # type: ignore[arg-type]
    outputs = shape[1] * split if flipped else shape[0]
    if outputs % count or (split > 1 and count != split):
        raise UserError(
            f"{count} heads do not divide the {outputs} outputs of {weight.name}; exclude it or name the attention"
            " layers with include",
            "groups",
        )
    if flipped and split == 1:
        return Part((shape[0], count, shape[1] // count, *shape[2:]), (1,))
    return Part((count, shape[0] // count, *shape[1:]), (0,))


def _head_level(weights: list[Weight], parts: list[Part | None], device: torch.device) -> Level:
    """Heads of one nn.MultiheadAttention are one group over its projections; other layers stand for themselves."""
    first: dict[str, int] = {}
    ids, count = [], 0
    for weight, part in zip(weights, parts, strict=True):
        assert part is not None
        heads = torch.Size(part.kept).numel()
        owner, module = weight.name, weight.module
        if isinstance(module, nn.MultiheadAttention | _ATTENTION_OUTPUT):
            names = owner.split(".")
            owner = ".".join(names[: -1 if isinstance(module, nn.MultiheadAttention) else -2]) + "."
        if owner not in first:
            first[owner] = count
            count += heads
        ids.append(torch.arange(heads) + first[owner])
    return Level(parts, torch.cat(ids), device)
