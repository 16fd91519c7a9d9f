"""Orthogonality of the rows or columns of weight matrices."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.errors import UserError
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.precision import widened
from regx.regularizers.selection import TRANSPOSED, Weight
from regx.regularizers.weights import WeightPenalty


@register(
    "orthogonal",
    kind="weights",
    zeros="none",
    shares="weights:WeightPenalty",
    lacks=("prox",),
    formula="sum over layers of ||W W^T - I||_F^2; form=cosine: of the mean |cosine| over pairs of vectors",
    example="orthogonal(layer_type=conv)=1e-4",
    source="Bansal, Chen, Wang, NeurIPS 2018 (soft orthogonality); keras.regularizers.OrthogonalRegularizer (cosine)",
)
class Orthogonal(WeightPenalty):
    """Drives the vectors of each weight towards being orthogonal: as a matrix, one row per output (out, in * kernel).

    A convolution's rows are its filters, flattened. `form=gram` also drives the vectors towards length one; `cosine`
    does not care for their lengths. A weight with a single vector has no pairs, so `cosine` does not reach it.

    Args:
        form: `gram`: squared distance of the matrix of inner products to the identity; `cosine`: mean absolute cosine
            over the pairs of vectors.
        vectors: which of a matrix: `rows`, `cols`, or the `smaller` number of the two, which can all be orthogonal.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        form: Literal["gram", "cosine"] = "gram",
        vectors: Literal["smaller", "rows", "cols"] = "smaller",
        **shared: Any,
    ) -> None:
        REGISTRY["orthogonal"].check({"form": form, "vectors": vectors} | shared)
        super().__init__(model, **shared)
        self.form, self.vectors = form, vectors
        self.weights = [
            weight
            for weight in self.weights
            if weight.tensor.ndim > 1 and (form == "gram" or len(self._vectors(weight, weight.tensor)) > 1)
        ]
        if not self.weights:
            raise UserError("no selected weight has two vectors that could be orthogonal; select others", "include")

    @property
    def closed_form(self) -> bool:
        """Whether the gradient has a closed form: that of `gram`."""
        return self.form == "gram"

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum over layers, 0-d."""
        # Inner products of half precision would say little about how far from orthogonal the vectors are.
        with torch.autocast(tensors[0].device.type, enabled=False):
            vectors = [self._vectors(weight, x) for weight, x in zip(self.weights, tensors, strict=True)]
            if self.form == "gram":
                return torch.stack([_excess(v).square().sum() for v in vectors]).sum()
            return torch.stack([_mean_cosine(v) for v in vectors]).sum()

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * 4 (W W^T - I) W."""
        with torch.autocast(tensors[0].device.type, enabled=False):
            for weight, grad, x in zip(self.weights, into, tensors, strict=True):
                vectors = self._vectors(weight, x)
                found = _excess(vectors) @ vectors
                if self._by_column(weight):
                    found = found.t()
                outputs = _output_dim(weight)
                grad.add_(found.reshape(x.movedim(outputs, 0).shape).movedim(0, outputs), alpha=4 * scale)

    def _by_column(self, weight: Weight) -> bool:
        rows = weight.tensor.shape[_output_dim(weight)]
        return self.vectors == "cols" or (self.vectors == "smaller" and rows > weight.tensor.numel() // rows)

    def _vectors(self, weight: Weight, x: Tensor) -> Tensor:
        """(vectors, their length); half precision as float32."""
        matrix = widened(x.movedim(_output_dim(weight), 0).flatten(1))
        return matrix.t() if self._by_column(weight) else matrix


def _output_dim(weight: Weight) -> int:
    return 1 if isinstance(weight.module, TRANSPOSED) else 0


def _excess(vectors: Tensor) -> Tensor:
    """V V^T - I."""
    return vectors @ vectors.t() - torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)


def _mean_cosine(vectors: Tensor) -> Tensor:
    """Mean absolute cosine over the pairs of rows; those with a row of zeros count as orthogonal."""
    unit = F.normalize(vectors, dim=1)
    count = len(vectors)
    return (unit @ unit.t()).tril(-1).abs().sum() / (count * (count - 1) / 2)
