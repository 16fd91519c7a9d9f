"""What a reader must know before believing a report: what failed, is missing, or was not the same for all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from regx.analysis.configurations import row_names
from regx.analysis.report.asked import setting_text, values_text
from regx.analysis.report.records import Record
from regx.analysis.runs import MONITORED, TESTED, Run, identity, placed, title_of
from regx.analysis.statistics import LEAST_SEEDS
from regx.analysis.table import counted
from regx.training.folder import PRUNED

# So many runs or configurations are named; more are counted.
_NAMED = 4


def caveats(records: Sequence[Record]) -> list[str]:
    """One sentence each; none where everything is as it should be."""
    runs = placed(record.run for record in records)
    kept = {id(run) for run in runs}
    records = [record for record in records if id(record.run) in kept]
    return [
        *_not_finished(records),
        *_without_number(records),
        *_seeds(runs),
        *_budgets(records),
        *_test(runs),
        *_mixed(records),
    ]


def _not_finished(records: Sequence[Record]) -> list[str]:
    found = []
    failed = [record for record in records if record.run.status == "failed"]
    reasons = [_reason(record) for record in failed]
    for reason, count in Counter(reasons).most_common():
        names = [record.run.name for record, other in zip(failed, reasons, strict=True) if other == reason]
        found.append(f"{_runs(count)} failed and {_is(count)} in no mean: {_listed(names)}: {reason}")
    states = Counter(record.run.status for record in records if not record.run.finished)
    for state, count in sorted(states.items()):
        if state != "failed":
            names = [record.run.name for record in records if record.run.status == state]
            verb = _is(count) if state in ("unfinished", "interrupted") else "has" if count == 1 else "have"
            word = f"{verb} {state}" if state in ("unfinished", "interrupted") else f"{verb} not begun"
            found.append(f"{_runs(count)} {word}, and {_is(count)} in no mean: {_listed(names)}.")
    return found


def _reason(record: Record) -> str:
    """Why a run failed, in the same words for all that failed so: without the path of its own folder."""
    own = rf"\S*{re.escape(record.run.name)}(?![\w-])"
    return re.sub(own, "RUN", record.error) or "no reason was written down"


def _without_number(records: Sequence[Record]) -> list[str]:
    names = [record.run.name for record in records if record.run.finished and record.run.value(MONITORED) is None]
    if not names:
        return []
    return [f"{_runs(len(names))} finished with a metric that is NaN or infinite: {_listed(names)}."]


def _seeds(runs: list[Run]) -> list[str]:
    names = row_names(runs, None)
    rows: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        rows.setdefault(tuple(identity(run.setting(name)) for name in names), []).append(run)
    titles = {
        key: ", ".join(setting_text(name, members[0].setting(name)) for name in names) or "the configuration"
        for key, members in rows.items()
    }
    done = {key: {run.seed for run in members if run.finished} for key, members in rows.items()}
    few = [titles[key] for key, seeds in done.items() if 0 < len(seeds) < LEAST_SEEDS]
    found = []
    if len(rows) == 1 and sum(map(len, done.values())) == 1:
        found.append("This is one run of one seed: how much of it is luck of that seed, nothing here tells.")
    elif len(few) == len(rows) > 1 and all(len(seeds) == 1 for seeds in done.values()):
        found.append("Every configuration has a single finished seed: no difference here can be told from luck.")
    elif len(few) == len(rows) > 1:
        found.append(f"No configuration has {LEAST_SEEDS} finished seeds, which a test needs.")
    elif few:
        told = f"{counted(len(few), 'configuration')} of {len(rows)}"
        found.append(
            f"{told} {'has' if len(few) == 1 else 'have'} fewer than {LEAST_SEEDS} finished seeds, too few for a test: "
            f"{_listed(few, '; ')}."
        )
    wanted = {seed for seeds in done.values() for seed in seeds if seed is not None}
    lacking = {key: wanted - seeds for key, seeds in done.items() if wanted - seeds}
    if lacking:
        told = [f"{titles[key]} lacks {values_text(sorted(seeds))}" for key, seeds in lacking.items()]
        count = "1 configuration lacks" if len(told) == 1 else f"{len(told)} configurations lack"
        found.append(f"{count} seeds that others have: {_listed(told, '; ')}.")
    return found


def _budgets(records: Sequence[Record]) -> list[str]:
    found = []
    finished = [record for record in records if record.run.finished]
    allowed = {identity(record.run.config.get("epochs")) for record in finished}
    if len(allowed) > 1:
        values = values_text([record.run.config.get("epochs") for record in finished])
        found.append(f"Runs had unequal budgets: {values} epochs.")
    early = [r for r in finished if (r.result.get("epochs") or 0) < (r.run.config.get("epochs") or 0)]
    words = {PRUNED: "by hyperband", "stop_at": "at the metric that --stop-at asks for", "patience": "by --patience"}
    reasons = Counter(words.get(str(record.run.ended), str(record.run.ended)) for record in early)
    if early:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        trained = [record.result["epochs"] for record in early]
        found.append(
            f"{_runs(len(early))} of {len(finished)} ended early, after {values_text(trained)} epochs ({told})."
        )
    return found


def _test(runs: Sequence[Run]) -> list[str]:
    finished = [run for run in runs if run.finished]
    lacking = [run for run in finished if run.value(TESTED) is None]
    if not finished or not lacking:
        return []
    title = title_of(finished, MONITORED)
    if len(lacking) == len(finished):
        return [f"There are no test rows: all numbers are {title}, which chose the epochs too and so looks too good."]
    return [f"{_runs(len(lacking))} of {len(finished)} {'has' if len(lacking) == 1 else 'have'} no test metric."]


def _mixed(records: Sequence[Record]) -> list[str]:
    """Runs of several states of the code, or several engines, side by side."""
    found = []
    commits = {record.env.get("commit") for record in records if record.env}
    if len(commits) > 1:
        found.append(f"The runs are of {len(commits)} commits of the code; each run names its own.")
    engines = sorted({str(record.result["engine"]) for record in records if record.result.get("engine")})
    if len(engines) > 1:
        found.append(
            f"The runs were computed by different engines ({', '.join(engines)}), whose numbers differ in detail."
        )
    return found


def _runs(count: int) -> str:
    return counted(count, "run")


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: Sequence[str], by: str = ", ") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return by.join(names[:_NAMED]) + more
