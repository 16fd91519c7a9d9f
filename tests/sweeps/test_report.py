"""How long a sweep still takes, by what its programs have taken."""

from pathlib import Path

import pytest

from regx.sweeps import definition, plan
from regx.sweeps.engines import Progress
from regx.sweeps.programs import Program
from regx.sweeps.report import Pace, Report, Work
from regx.sweeps.trial import Trial

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
parameters:
  dataset: {value: iris}
"""


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    return plan.trials(definition.read(tmp_path / "mine.yaml", seeds=list(range(64))), tmp_path / "runs")


def test_a_program_takes_its_time_for_all_its_runs(trials: list[Trial]) -> None:
    pace = Pace()
    assert pace.seconds_left(Report(total=100), {}, 2, 0.0) is None
    pace.over(Work(Program(tuple(trials[:32])), began=10.0, trained=32), 70.0)
    pace.over(Work(Program(tuple(trials[:1])), began=10.0, trained=0), 500.0)  # lost: says nothing
    assert pace.seconds_left(Report(total=96, finished=32), {}, 2, 70.0) == pytest.approx(64 * 60 / 32 / 2)
    assert pace.seconds_left(Report(total=96, finished=96), {}, 2, 70.0) == 0


def test_the_first_program_tells_by_its_epochs(trials: list[Trial]) -> None:
    program = Program(tuple(trials[:32]))
    work, report = Work(program, began=0.0), Report(total=96, running={"w": (program, None)})
    assert Pace().seconds_left(report, {"w": work}, 1, 1.0) is None
    # It goes on from epoch 1000 of 2000, ten seconds after it was begun, at 20 epochs a second.
    first, now = Progress("w", 1000, 2000), Progress("w", 1200, 2000)
    work.tell(first, 10.0)
    report.running["w"] = (program, first)
    assert Pace().seconds_left(report, {"w": work}, 1, 10.0) is None
    work.tell(now, 20.0)
    report.running["w"] = (program, now)
    rest = 800 / 20
    assert Pace().seconds_left(report, {"w": work}, 1, 20.0) == pytest.approx(rest + 64 * (20 + rest) / 32)
    # On two workers, one of which has only just begun: its runs take what the others do.
    other = Program(tuple(trials[32:]))
    report.running["x"] = (other, None)
    left = Pace().seconds_left(report, {"w": work, "x": Work(other, began=19.0)}, 2, 20.0)
    assert left == pytest.approx((rest + 64 * (20 + rest) / 32) / 2)
    assert report.at_work() == 64
