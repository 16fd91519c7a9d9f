"""Toy sets in the plane, made on the fly and reproducible by their seed.

They keep their raw coordinates (standardize is ignored): all lie within a few units of the origin, and decision
surfaces are drawn in these coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from regx.parameters import Bounds
from regx.registry import register

if TYPE_CHECKING:
    from regx.data.tables import Table

Rows = Annotated[int, Bounds(4, 10_000_000)]
Noise = Annotated[float, Bounds(0, 100)]
Seed = Annotated[int, Bounds(0, 4294967295)]
Classes = Annotated[int, Bounds(2, 10)]


@register(
    "moons",
    kind="toy",
    uci_id=None,
    task="binary",
    rows=1000,
    features=2,
    classes=2,
    source="sklearn.datasets.make_moons",
)
def moons(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42) -> Table:
    """Two interleaving half circles of radius 1.

    The Jumpstart reference code draws the validation and the test rows of this set from all rows, so that its moons
    validation accuracy is measured on training rows (with 500 samples all 250 validation rows are training rows). Here
    the parts are disjoint under either protocol.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate.
        seed: seeds the rows (and their split).
    """
    from sklearn.datasets import make_moons

    return _table(*make_moons(n_samples, noise=noise, random_state=seed), 2)


@register(
    "circles",
    kind="toy",
    uci_id=None,
    task="binary",
    rows=1000,
    features=2,
    classes=2,
    source="sklearn.datasets.make_circles",
)
def circles(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42) -> Table:
    """A circle of radius 0.5 within one of radius 1.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate.
        seed: seeds the rows (and their split).
    """
    from sklearn.datasets import make_circles

    return _table(*make_circles(n_samples, noise=noise, factor=0.5, random_state=seed), 2)


@register(
    "blobs",
    kind="toy",
    uci_id=None,
    task="multiclass",
    rows=1000,
    features=2,
    classes=3,
    source="sklearn.datasets.make_blobs",
)
def blobs(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42, classes: Classes = 3) -> Table:
    """Gaussian clouds whose centres are spread evenly on the unit circle.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of each cloud.
        seed: seeds the rows (and their split).
        classes: number of clouds, one class each.
    """
    import numpy as np
    from sklearn.datasets import make_blobs

    angles = 2 * np.pi * np.arange(classes) / classes
    centers = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x, y = make_blobs(n_samples, centers=centers, cluster_std=noise, random_state=seed)[:2]
    return _table(x, y, classes)


@register(
    "spirals",
    kind="toy",
    uci_id=None,
    task="binary",
    rows=1000,
    features=2,
    classes=2,
    source="after Lang & Witbrock 1988",
)
def spirals(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42, classes: Classes = 2) -> Table:
    """Interleaved Archimedean spirals of one turn in the unit disc, one arm per class.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate.
        seed: seeds the rows (and their split).
        classes: number of arms.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % classes
    radius = np.sqrt(rng.uniform(size=n_samples))  # even density along the arm
    angle = 2 * np.pi * (radius + y / classes)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _table(x + noise * rng.standard_normal(x.shape), y, classes)


@register(
    "xor", kind="toy", uci_id=None, task="binary", rows=1000, features=2, classes=2, source="Minsky & Papert 1969"
)
def xor(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42) -> Table:
    """The square [-1, 1]^2, class 1 where the two coordinates differ in sign.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate after labelling.
        seed: seeds the rows (and their split).
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=(n_samples, 2))
    y = (x[:, 0] * x[:, 1] < 0).astype(np.int64)
    return _table(x + noise * rng.standard_normal(x.shape), y, 2)


@register(
    "gaussian_quantiles",
    kind="toy",
    uci_id=None,
    task="multiclass",
    rows=1000,
    features=2,
    classes=3,
    source="sklearn.datasets.make_gaussian_quantiles",
)
def gaussian_quantiles(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42, classes: Classes = 3) -> Table:
    """A standard normal cloud cut into concentric shells of equal size, one class each.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate after labelling.
        seed: seeds the rows (and their split).
        classes: number of shells.
    """
    import numpy as np
    from sklearn.datasets import make_gaussian_quantiles

    x, y = make_gaussian_quantiles(n_samples=n_samples, n_features=2, n_classes=classes, random_state=seed)
    return _table(x + noise * np.random.default_rng(seed).standard_normal((n_samples, 2)), y, classes)


@register(
    "swiss_roll",
    kind="toy",
    uci_id=None,
    task="binary",
    rows=1000,
    features=2,
    classes=2,
    source="sklearn.datasets.make_swiss_roll",
)
def swiss_roll(*, n_samples: Rows = 1000, noise: Noise = 0.1, seed: Seed = 42, classes: Classes = 2) -> Table:
    """The Swiss roll seen end on, scaled into the unit disc, cut into pieces of equal angle from the inside out.

    Args:
        n_samples: rows in all parts together.
        noise: standard deviation of the Gaussian noise added to each coordinate after scaling.
        seed: seeds the rows (and their split).
        classes: number of pieces.
    """
    import numpy as np
    from sklearn.datasets import make_swiss_roll

    # make_swiss_roll draws the angle, which is also the radius, from [1.5 pi, 4.5 pi].
    points, angle = make_swiss_roll(n_samples, noise=0.0, random_state=seed)
    x = points[:, [0, 2]] / (4.5 * np.pi)
    y = np.minimum((angle - 1.5 * np.pi) / (3 * np.pi) * classes, classes - 1).astype(np.int64)
    return _table(x + noise * np.random.default_rng(seed).standard_normal(x.shape), y, classes)


def _table(x: Any, y: Any, classes: int) -> Table:
    import numpy as np
    import pandas as pd

    from regx.data.tables import Table

    names = tuple(str(label) for label in range(classes))
    return Table(pd.DataFrame(x, columns=["x1", "x2"]), y.astype(np.int64), names, standardize=False)
