"""Task losses, their gradients and metrics of R runs at once; `regx.training.objective` says what they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from regx.training.objective import Objective
from regx.training.vectorised.storage import padded


class Objectives:
    """The task of R runs.

    Args:
        objective: that of one of them.
    """

    def __init__(self, objective: Objective) -> None:
        self.task, self.smoothing = objective.task, objective.smoothing
        self.top5 = objective.top5
        self.names = ("r2", "rmse", "mae") if self.task == "regression" else ("acc", "top5_acc")[: 1 + self.top5]

    def loss(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss (R,) and its gradient (R, K, B) at outputs (R, K, B) with labels (R, B) or targets (R, B, T)."""
        if self.task == "regression":
            error = output.transpose(1, 2) - y
            return error.square().flatten(1).mean(1), (2 / error[0].numel()) * error.transpose(1, 2)
        batch = output.shape[2]
        # Whole rows of what the processor computes in one go: see `padded`.
        output, y = F.pad(output, (0, padded(batch) - batch)), F.pad(y, (0, padded(batch) - batch))
        if self.task == "binary":
            target = y.to(output.dtype)
            if self.smoothing:
                target = target * (1 - self.smoothing) + self.smoothing / 2
            logit = output[:, 0]
            loss = F.binary_cross_entropy_with_logits(logit, target, reduction="none")[:, :batch].mean(1)
            return loss, ((logit.sigmoid() - target) / batch).unsqueeze(1)[:, :, :batch].contiguous()
        logs = output.log_softmax(1)
        picked = y.unsqueeze(1)
        loss = -logs.gather(1, picked)[:, 0, :batch].mean(1)
        target = torch.zeros_like(logs).scatter_(1, picked, 1.0)
        if self.smoothing:
            classes = output.shape[1]
            loss = (1 - self.smoothing) * loss - self.smoothing / classes * logs.sum(1)[:, :batch].mean(1)
            target = target * (1 - self.smoothing) + self.smoothing / classes
        return loss, ((logs.exp() - target) / batch)[:, :, :batch].contiguous()

    def counts(self, output: Tensor, y: Tensor) -> Tensor:
        """Sums over a batch that `metrics` are made of, (R, ...): hits, top-5 hits; or squared and absolute errors."""
        if self.task == "regression":
            error = (output - y.transpose(1, 2)).double()
            return torch.cat([error.square().sum(2), error.abs().sum(2)], 1)
        if self.top5:
            hits = output.topk(5, 1).indices == y.unsqueeze(1)
            return torch.stack([hits[:, 0].sum(1), hits.sum((1, 2))], 1).double()
        predicted = (output[:, 0] > 0).long() if self.task == "binary" else output.argmax(1)
        return (predicted == y).sum(1, keepdim=True).double()

    def metrics(self, counts: Tensor, rows: int, total: Tensor, scale: Tensor) -> Tensor:
        """(R, metrics) in the order of `names`.

        Args:
            counts: the sums of all batches.
            rows: how many rows they had.
            total: (R, T) sum of squares of the targets around their mean; used by r2.
            scale: (R, T) deviation of each target, in its own unit.
        """
        if self.task != "regression":
            return counts / rows
        squares, absolutes = counts.chunk(2, 1)
        found = (1 - squares / total, (squares / rows).sqrt() * scale, absolutes / rows * scale)
        return torch.stack([value.mean(1) for value in found], 1)
