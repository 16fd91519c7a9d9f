"""What a pass through a network shows: which channels belong together, which hold a constant, and who reads them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from regx.compaction.atoms import Atoms, Book

Dims = tuple[Atoms | None, ...]
Layer = nn.Linear | nn.modules.conv._ConvNd


@dataclass(frozen=True)
class State:
    """What is known of a tensor.

    Attributes:
        dims: atoms of each dimension, None for one that cannot change.
        unknown: which numbers depend on the input; of the tensor's shape.
        computed: whether the network's input had a part in it, be its effect zero.
    """

    dims: Dims
    unknown: Tensor
    computed: bool


@dataclass(frozen=True)
class Reader:
    """A linear map that reads channels: y[o] = sum_i w[o, i] x[i].

    Attributes:
        name: of the layer, or of the module that the operation is in.
        layer: the linear or convolutional module whose weight it is; None for a weight without a module of its own.
        own: whether it is read by the layer's own forward method, so that a constant may go into the layer's bias.
        weight: (O, I, ...), a view of `layer.weight`.
        transposed: whether the weight of the layer is (I, O, ...).
        inputs: atoms of the I channels; a channel of several positions may come several times.
        outputs: atoms of the O channels.
        constant: (I,) value of the channel, NaN where it depends on the input or on the position.
        padded: whether zeros are read beyond the edge, so that a constant is none at the edge.
        positions: how often the map is applied per sample.
    """

    name: str
    layer: Layer | None
    own: bool
    weight: Tensor
    transposed: bool
    inputs: Atoms
    outputs: Atoms
    constant: Tensor
    padded: bool
    positions: int


@dataclass(frozen=True)
class Addition:
    """A sum of which one side holds a constant: a residual block whose branch, or whose shortcut, is dead.

    Attributes:
        module: name of the module in whose forward pass it is.
        place: how many tensors were added in that forward pass before.
        side: which operand is the constant one.
        constant: its value, of size 1 where it does not vary, (1, C, 1, 1) say; None where it differs between
            positions.
    """

    module: str
    place: int
    side: int
    constant: Tensor | None


@dataclass
class Trace:
    """What a pass has shown.

    Attributes:
        book: the atoms.
        tensors: name of every parameter and buffer that was read -> atoms of its dimensions.
        readers: the linear maps.
        others: of the maps whose inputs cannot change: atoms of the outputs, and multiply-adds per output channel.
        rectifiers: for every call of a ReLU the atoms of the channels (dimension 1) that it reads.
        uses: name of a parameter or buffer -> how many operations read it.
        sums: name of a module -> how often two tensors were added in its last forward pass.
        additions: sums with a constant side, in the order of the pass.
        constant: whether the network's output is the same for every input.
    """

    book: Book = field(default_factory=Book)
    tensors: dict[str, Dims] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    others: list[tuple[Atoms, int]] = field(default_factory=list)
    rectifiers: list[Atoms | None] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    sums: dict[str, int] = field(default_factory=dict)
    additions: list[Addition] = field(default_factory=list)
    constant: bool = False
