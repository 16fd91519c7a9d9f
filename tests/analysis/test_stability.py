"""Who has learned, and who has forgotten again."""

from dataclasses import replace

import pytest

from regx.analysis.stability import stability
from regx.analysis.table import TableSpec
from regx.errors import UserError
from tests.analysis.runs_by_hand import run


def test_best_and_last_epochs_are_counted_apart() -> None:
    """Three seeds learn, of which one forgets; a failed one is in no number."""
    pairs = [(0.97, 0.96), (0.99, 0.95), (0.96, 0.5), (0.7, 0.6)]
    runs = [
        replace(run(best, seed=seed, strength=1), last={"val/acc": last, "val/jr/unit_dead_ratio": seed / 10})
        for seed, (best, last) in enumerate(pairs)
    ]
    plain = [replace(run(0.5, seed=seed, strength=0), last={"val/acc": 0.5}) for seed in range(2)]
    broken = replace(run(0.5, seed=2, strength=0), status="failed")
    table = stability([*runs, *plain, broken])
    assert table.columns == [
        *("strength", "n", "val/acc best, median", "val/acc last, median"),
        *("best >= 0.95", "last >= 0.95", "dead units"),
    ]
    assert table.rows[0] == [0, 2, 0.5, 0.5, 0, 0, None]
    assert table.rows[1][:6] == [1, 4, pytest.approx(0.965), pytest.approx(0.775), 3, 2]
    assert table.rows[1][6] == pytest.approx(0.15)
    assert any("1 failed" in note for note in table.notes)


def test_a_row_is_one_configuration() -> None:
    runs = [replace(run(0.5, seed=0, strength=s, width=w), last={"val/acc": 0.5}) for s in (0, 1) for w in (2, 4)]
    with pytest.raises(UserError, match="name all that vary"):
        stability(runs, TableSpec(by=["strength"]))
