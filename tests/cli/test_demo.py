"""`regx demo`: what it computes is what the closed forms say."""

from pathlib import Path

import pytest

from regx.cli.demo import CURVATURE, LR, MOVED, OPTIMUM, START, STEPS, STRENGTH, descend
from tests.cli.done import Done


def test_without_a_penalty_the_way_is_geometric() -> None:
    path = descend(None)
    assert path[0] == START and len(path) == STEPS + 1
    for step in (1, 7, 50):
        expected = [o + (s - o) * (1 - LR * c) ** step for c, o, s in zip(CURVATURE, OPTIMUM, START, strict=True)]
        assert path[step] == pytest.approx(expected, rel=1e-12)
    assert path[-1] == pytest.approx((3, 2))


def test_l1_and_l2_move_the_optimum_to_where_the_closed_forms_are() -> None:
    # c (w - o) + s = 0 where w stays positive; c (w - o) + 2 s w = 0.
    assert descend(f"l1={STRENGTH}")[-1] == pytest.approx((2.25, 1.85), abs=1e-12)
    assert descend(f"l2={STRENGTH}")[-1] == pytest.approx((1.2, 20 / 13), abs=1e-12)


def test_only_the_proximal_step_is_exactly_zero() -> None:
    path = [w0 for w0, _ in descend(f"l1={STRENGTH}", MOVED)]
    w, expected = START[0], [START[0]]
    for _ in range(STEPS):
        w -= LR * (w - MOVED[0] + STRENGTH * ((w > 0) - (w < 0)))
        expected.append(w)
    assert path == pytest.approx(expected, abs=1e-9)
    assert 0 not in path
    # Just above 0 a step goes down by 0.018, just below up by 0.042.
    assert 0.03 < max(path[-100:]) <= 0.042 and -0.018 <= min(path[-100:]) < 0

    proximal = [w0 for w0, _ in descend(f"l1(prox=true)={STRENGTH}", MOVED)]
    first = proximal.index(0.0)
    assert 0 < first < 100 and all(w0 > 0 for w0 in proximal[:first]) and not any(proximal[first:])


def test_prints_a_table_and_writes_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "demo", "l1-trajectory", "--theme", "both")
    assert (done.code, done.err) == (0, "")
    for number in ("3.000000", "2.250000", "1.850000", "1.200000", "1.538462", "-0.017 to 0.040", "never"):
        assert number in done.out
    paths = [Path(line) for line in done.out.splitlines() if line.startswith("figures")]
    assert len(paths) == 10 and all(path.stat().st_size for path in paths)
    rows = Path("figures/l1-trajectory.csv").read_text().splitlines()
    assert rows[0].startswith("kind,way,step,w0,w1") and sum(",1000," in row for row in rows) == 3


def test_looks_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "demo", "l1-trajectory", "--theme", "drak")
    assert done.code == 2 and "did you mean 'dark'" in done.err and not Path("figures").exists()
