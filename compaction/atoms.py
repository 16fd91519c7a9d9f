"""Atoms: the numbers by which the channels of all tensors of a pass are told apart and tied together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Atoms = NDArray[np.int64]


class Book:
    """Gives out atoms and notes which of them must share their fate.

    An atom is one channel of one dimension of one tensor. Two atoms are tied where an operation needs both channels or
    neither (the two sides of an addition, the output of a layer and the parameters of its normalisation). Some must be
    kept whatever they hold (inputs and outputs of the network).
    """

    def __init__(self) -> None:
        self.count = 0
        self._pairs: list[tuple[Atoms, Atoms]] = []
        self._kept: list[tuple[Atoms, str]] = []

    def new(self, number: int) -> Atoms:
        """`number` atoms that nothing is tied to yet."""
        self.count += number
        return np.arange(self.count - number, self.count)

    def tie(self, first: Atoms | None, second: Atoms | None, reason: str) -> None:
        """Ties two dimensions of the same size, channel by channel; None is one that cannot change.

        Args:
            first: atoms of one dimension.
            second: atoms of the other.
            reason: why a dimension beside one that cannot change is kept.
        """
        if first is None or second is None:
            self.keep(first if second is None else second, reason)
        elif first is not second:
            self._pairs.append((first, second))

    def keep(self, atoms: Atoms | None, reason: str) -> None:
        """Notes that these channels stay."""
        if atoms is not None and len(atoms):
            self._kept.append((atoms, reason))

    def classes(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """The class of every atom, those tied together being one; and class -> why it is kept."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows = np.concatenate([pair[0] for pair in self._pairs] or [np.empty(0, np.int64)])
        columns = np.concatenate([pair[1] for pair in self._pairs] or [np.empty(0, np.int64)])
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(self.count, self.count))
        classes = connected_components(graph, directed=False)[1].astype(np.int64)
        kept: dict[int, str] = {}
        for atoms, reason in self._kept:
            for number in np.unique(classes[atoms]):
                kept.setdefault(int(number), reason)
        return classes, kept
