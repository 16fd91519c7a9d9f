"""The real datasets that scikit-learn ships: no network, no files.

iris, wine and breast_cancer are also UCI sets (53, 109, 17); `uci:53` reads UCI's copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regx.registry import register

if TYPE_CHECKING:
    from regx.data.tables import Table


@register(
    "iris",
    kind="scikit-learn",
    task="multiclass",
    rows=150,
    features=4,
    classes=3,
    uci_id=53,
    source="Fisher 1936; UCI 53, scikit-learn's copy",
)
def iris() -> Table:
    """Three species of iris by the size of sepal and petal.

    scikit-learn's copy has Fisher's own values in rows 35 and 38, UCI's file has not.
    """
    from sklearn.datasets import load_iris

    note = "iris: scikit-learn's copy (no network), with Fisher's corrected rows 35 and 38; uci:53 is UCI's file"
    return _table(load_iris(as_frame=True), note)


@register(
    "wine",
    kind="scikit-learn",
    task="multiclass",
    rows=178,
    features=13,
    classes=3,
    uci_id=109,
    source="Forina et al. 1991; UCI 109, scikit-learn's copy",
)
def wine() -> Table:
    """Three cultivars of wine by chemical analysis."""
    from sklearn.datasets import load_wine

    return _table(
        load_wine(as_frame=True), "wine: scikit-learn's copy (no network), the same rows as UCI's file (uci:109)"
    )


@register(
    "breast_cancer",
    kind="scikit-learn",
    task="binary",
    rows=569,
    features=30,
    classes=2,
    uci_id=17,
    source="Wolberg et al. 1993; UCI 17 (Wisconsin, diagnostic), scikit-learn's copy",
)
def breast_cancer() -> Table:
    """Malignant or benign by the shape of cell nuclei; class 1 is benign."""
    from sklearn.datasets import load_breast_cancer

    note = "breast_cancer: scikit-learn's copy (no network), the same rows as UCI's wdbc.data (uci:17)"
    return _table(load_breast_cancer(as_frame=True), note)


@register(
    "digits",
    kind="scikit-learn",
    task="multiclass",
    rows=1797,
    features=64,
    classes=10,
    uci_id=80,
    source="Alpaydin & Kaynak 1998; test part of UCI 80, scikit-learn's copy",
)
def digits() -> Table:
    """Handwritten digits, 8 x 8 pixels of 0 to 16, as 64 inputs."""
    from sklearn.datasets import load_digits

    return _table(load_digits(as_frame=True))


@register(
    "digits_image",
    kind="scikit-learn",
    task="multiclass",
    rows=1797,
    features=64,
    classes=10,
    shape="1 x 8 x 8",
    uci_id=80,
    source="Alpaydin & Kaynak 1998; test part of UCI 80, scikit-learn's copy",
)
def digits_image() -> Table:
    """The same digits as images (1, 8, 8) with pixels of 0 to 1, for convolutional networks."""
    from dataclasses import replace

    from sklearn.datasets import load_digits

    table = _table(load_digits(as_frame=True))
    return replace(table, features=table.features / 16, standardize=False, shape=(1, 8, 8))


@register(
    "diabetes",
    kind="scikit-learn",
    task="regression",
    rows=442,
    features=10,
    classes=0,
    uci_id=None,
    source="Efron et al. 2004, scikit-learn's copy",
)
def diabetes() -> Table:
    """Disease progression after one year by ten measurements of the patient."""
    from sklearn.datasets import load_diabetes

    return _table(load_diabetes(as_frame=True, scaled=False))


def _table(bunch: Any, *notes: str) -> Table:
    import numpy as np

    from regx.data.tables import Table

    if "target_names" not in bunch:
        return Table(bunch.data, bunch.target.to_numpy(dtype=np.float64)[:, None], (), notes)
    return Table(
        bunch.data, bunch.target.to_numpy(dtype=np.int64), tuple(str(name) for name in bunch.target_names), notes
    )
