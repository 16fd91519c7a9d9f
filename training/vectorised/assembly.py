"""The networks of R runs, with the memory that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regx.models import Rectangular
from regx.training.config import RunConfig
from regx.training.experiments import RectangularConfig
from regx.training.vectorised.modules import Modules
from regx.training.vectorised.network import Network, Networks, Norm, Shape, norm_of
from regx.training.vectorised.storage import Layout


@dataclass(frozen=True)
class Assembled:
    """R networks.

    Attributes:
        layout: of the parameters.
        weights: the parameters, flat.
        averages: layout of the running statistics.
        statistics: these, flat.
        network: what computes with them.
    """

    layout: Layout
    weights: Tensor
    averages: Layout
    statistics: Tensor
    network: Networks


def assemble(
    config: RunConfig,
    models: Sequence[nn.Module],
    generators: Sequence[torch.Generator],
    hooked: Sequence[str],
    *,
    by_hand: bool,
) -> Assembled:
    """Makes room for networks, whose numbers are not copied yet.

    Args:
        config: of one of the runs.
        models: of all.
        generators: of the dropout of every run.
        hooked: names of the modules whose pre-activations are looked at.
        by_hand: whether they are dense rectangular networks, and computed by the code for these.
    """
    first, runs = models[0], len(models)
    like, at_layers = next(first.parameters()), config.hook_at == "layer"
    if not by_hand:
        layout, averages = Layout.of_parameters(first, runs), Layout.of_buffers(first, runs)
        weights, statistics = like.new_zeros(layout.size), like.new_zeros(averages.size)
        network = Modules(first, layout, weights, averages, statistics, hooked=hooked, at_layers=at_layers)
        return Assembled(layout, weights, averages, statistics, network)
    assert isinstance(config, RectangularConfig)
    rectangles = [model for model in models if isinstance(model, Rectangular)]
    shape = Shape.of(rectangles[0])
    layout, averages = shape.layout(runs), shape.statistics(runs)
    weights, statistics = like.new_zeros(layout.size), like.new_zeros(averages.size)
    norm, example = None, norm_of(first)
    if example is not None:
        views = averages.views(statistics)
        norm = Norm(views["mean"], views["variance"], float(example.momentum or 0.0), example.eps)
    dropouts = torch.tensor([model.dropout for model in rectangles], dtype=torch.float64, device=like.device)
    network = Network(
        shape,
        layout,
        weights,
        hooked=tuple(hooked),
        at_layers=at_layers,
        activation=config.activation,
        skip=config.skip_connections,
        norm=norm,
        dropout=dropouts if rectangles[0].dropout else None,
        generators=generators,
    )
    return Assembled(layout, weights, averages, statistics, network)
