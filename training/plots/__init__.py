"""Figures of a run, drawn from plain arrays: no window, no global state, nothing remembered between calls.

Every function returns a `matplotlib.figure.Figure`; `save` writes it. matplotlib is imported where a figure is drawn,
as its import takes longer than a short command.
"""

from regx.training.plots.compare import RunPicture, comparison
from regx.training.plots.curves import learning_curves
from regx.training.plots.predictions import confusion_matrix, regression_scatter
from regx.training.plots.status import status_heatmap
from regx.training.plots.style import CLASS_COLOURS, STATUS_COLOURS, save
from regx.training.plots.surface import Points, Predict, decision_surface
from regx.training.plots.weights import sparsity_bars, weight_histogram

__all__ = [
    "CLASS_COLOURS",
    "STATUS_COLOURS",
    "Points",
    "Predict",
    "RunPicture",
    "comparison",
    "confusion_matrix",
    "decision_surface",
    "learning_curves",
    "regression_scatter",
    "save",
    "sparsity_bars",
    "status_heatmap",
    "weight_histogram",
]
