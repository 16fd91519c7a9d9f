"""Task losses and metrics: what a network is trained on and how well it does, accumulated on the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.data.module import DataModule
from regx.errors import UserError


class Objective:
    """Loss and metrics of a task.

    | task       | network output | loss                      | metrics        | monitored |
    |------------|----------------|---------------------------|----------------|-----------|
    | binary     | (N, 1) logit   | binary cross-entropy      | acc            | acc       |
    | multiclass | (N, K) logits  | cross-entropy             | acc, top5_acc  | acc       |
    | regression | (N, T) values  | mean square, standardised | r2, rmse, mae  | r2        |

    top5_acc is measured for images of more than five classes. rmse and mae are in the target's own units, averaged over
    targets; r2 is 1 - SSE / SST, averaged over targets.

    Args:
        data: the datamodule whose task it is.
        label_smoothing: share of each label spread over all classes.

    Raises:
        UserError: label smoothing for a regression.
    """

    def __init__(self, data: DataModule, label_smoothing: float = 0.0) -> None:
        if label_smoothing and data.task == "regression":
            raise UserError(f"is for classification; {data.name} is a regression", "label_smoothing")
        self.task = data.task
        self.smoothing = label_smoothing
        self.monitor = "r2" if data.task == "regression" else "acc"
        self.classes = len(data.classes)
        self.top5 = data.task == "multiclass" and data.images and self.classes > 5
        self._scale = torch.tensor(data.target_std or (1.0,))

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean task loss of a batch, 0-d; `output` (N, K), `y` (N,), (N, T), or class probabilities (N, K)."""
        if self.task == "binary":
            target = y.to(output.dtype)
            if self.smoothing:
                target = target * (1 - self.smoothing) + self.smoothing / 2
            return F.binary_cross_entropy_with_logits(output.squeeze(1), target)
        if self.task == "multiclass":
            return F.cross_entropy(output, y, label_smoothing=self.smoothing)
        return F.mse_loss(output, y)

    def counts(self, output: Tensor, y: Tensor) -> Tensor:
        """Sums over a batch that the metrics are made of: hits, top-5 hits, or (2 * T,) squared and absolute errors."""
        if self.task == "regression":
            error = (output - y).double()
            return torch.cat([error.square().sum(0), error.abs().sum(0)])
        if self.top5:
            hits = output.topk(5).indices == y.unsqueeze(1)
            return torch.stack([hits[:, 0].sum(), hits.sum()]).double()
        return (self.predict(output) == y).sum().double().reshape(1)

    def predict(self, output: Tensor) -> Tensor:
        """Class indices (N,) of a classification, or values (N, T) of a regression."""
        if self.task == "binary":
            return (output.squeeze(1) > 0).long()
        return output.argmax(1) if self.task == "multiclass" else output

    def probabilities(self, output: Tensor) -> Tensor:
        """Class probabilities (N, K); a binary task has two columns."""
        if self.task == "binary":
            p = output.sigmoid()
            return torch.cat([1 - p, p], 1)
        return output.softmax(1)

    def metrics(self, counts: Tensor, y: Tensor, n: int) -> dict[str, Tensor]:
        """Metrics over `n` rows from their summed `counts`; 0-d tensors, no host sync.

        Args:
            counts: the sum of `counts` of all batches.
            y: targets of the rows (used by r2).
            n: number of rows.
        """
        if self.task != "regression":
            return dict(zip(("acc", "top5_acc"), counts / n, strict=False))
        sse, sae = counts.chunk(2)
        scale = self._scale.to(counts)
        total = (y - y.mean(0)).double().square().sum(0)
        return {
            "r2": (1 - sse / total).mean(),
            "rmse": ((sse / n).sqrt() * scale).mean(),
            "mae": (sae / n * scale).mean(),
        }


def chance(data: DataModule) -> float:
    """What the best constant predictor scores on the validation rows: the majority's share, or an R2 of 0."""
    if data.task == "regression":
        return 0.0
    return float(data.val.y.bincount().max()) / len(data.val)


def parameter_groups(model: nn.Module, weight_decay: float, decay_norms: bool = False) -> list[dict[str, object]]:
    """Parameters for an optimiser: biases and norms (one dimension or none) are decayed only if asked for."""
    if decay_norms:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    if not weight_decay:
        return [{"params": list(model.parameters())}]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
