"""The page of a sweep, or of any runs: from records to what stands on it."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regx.analysis import figures
from regx.analysis.configurations import configurations, row_names
from regx.analysis.report import drawing
from regx.analysis.report.answer import Answer, answer
from regx.analysis.report.asked import Asked, changed, duration, environment_rows, facts, shown_value
from regx.analysis.report.caveats import caveats
from regx.analysis.report.page import Drill, Grid, Page, RunRow, RunTable, grid, number_columns
from regx.analysis.report.records import Record, check_one_task
from regx.analysis.runs import MONITORED, TESTED, Run, title_of
from regx.analysis.table import Table, TableSpec
from regx.training.folder import PRUNED

# Of more runs, or of more bytes, the images of their plots are left out.
MOST_WITH_IMAGES, MOST_BYTES = 60, 3_000_000
# A setting with more values is no filter.
_FILTERED = 24
# What a run's drill-down tells of its best, test and last epoch.
_TOLD = ("acc", "r2", "top5_acc", "rmse", "mae", "loss", "jr/unit_dead_ratio", "jr/unit_linear_ratio")


def page_of(
    asked: Asked,
    records: Sequence[Record],
    tables: Sequence[Table] = (),
    *,
    missing: Sequence[str] = (),
    baseline: str | None = None,
) -> Page:
    """The page of a sweep.

    Args:
        asked: what its file says.
        records: its runs, those that have not begun among them.
        tables: of the sweep.
        missing: why others cannot be.
        baseline: label or `name=value` that others are tested against; None for the label `Baseline`, or strength 0.

    Raises:
        UserError: no configuration is the baseline, or the runs have no metric in common.
        RunFailed: no run has finished, or a file is damaged.
    """
    records = list(records)
    runs = [record.run for record in records]
    check_one_task(records)
    found = answer(runs, baseline)
    told = facts(asked, records)
    metrics = [TESTED, MONITORED] if found.metric.startswith("test/") else [MONITORED]
    full = configurations(runs, TableSpec(by=_all_rows(runs, found), metrics=metrics, baseline=_every(found)))
    drawn, note = images(records)
    return Page(
        title=asked.title,
        summary=asked.summary,
        description=[part for part in asked.description.split("\n\n") if part.strip()],
        facts=told.rows,
        varied=told.varied,
        fixed=told.fixed,
        headline=found.headline,
        remarks=found.remarks,
        answer_figure=drawing.of_answer(found, records),
        caveats=caveats(records),
        statistics=_statistics(found, full),
        tables=[grid(table) for table in tables],
        missing=list(missing),
        figures=_figures(records),
        live_figure=drawing.of_all(found, records),
        runs=run_table(records, drawn, note),
        curves=curves_of(records),
    )


def _all_rows(runs: list[Run], found: Answer) -> list[str]:
    """What makes every configuration a row, the names of the baseline among them."""
    return list(dict.fromkeys([*row_names(runs, None), *(key for row in found.rows[:1] for key in row.group.key)]))


def _every(found: Answer) -> str | None:
    """The baseline for the table of all configurations, where it has a finished run."""
    return found.spec if found.baseline is not None else None


def _statistics(found: Answer, full: Table) -> list[Grid]:
    """The table of the answer, and that of all configurations where these are not the same rows."""
    short = grid(replace(found.table, title="tuned by validation, compared with the baseline"))
    everything = grid(replace(full, title="every configuration"))
    same = len(short.rows) == len(everything.rows)
    return [everything] if same or found.spec is None else [short, everything]


def _figures(records: Sequence[Record]) -> list[figures.Figure]:
    """The figures of a sweep. Runs of several folders are found from the folder that all of them lie in."""
    begun = [record for record in records if record.folder.is_dir()]
    parents = {record.folder.resolve().parent for record in begun}
    if not parents:
        return []
    root = Path(os.path.commonpath(parents))
    runs = [replace(r.run, name=str(r.folder.resolve().relative_to(root))) for r in begun]
    return figures.of_sweep(runs, root)


def curves_of(records: Sequence[Record]) -> dict[str, object]:
    """Specifications of a run's own curves, and the curves of each run by its number."""
    specs = drawing.curve_specs(records)
    found = {
        index: columns
        for index, record in enumerate(records)
        if (columns := drawing.curves(record.folder, specs[0]["metric"], record.run.best.get("epoch")))
    }
    return {"curve_specs": specs, "curves": found}


def run_table(records: Sequence[Record], drawn: dict[int, list[tuple[str, str]]], note: str) -> RunTable:
    """The table of all runs, with what opens below each."""
    runs = [record.run for record in records]
    names = row_names(runs, None)
    titles = [title_of(runs, MONITORED), title_of(runs, TESTED)]
    has_test = any(run.value(TESTED) is not None for run in runs)
    columns = [*names, "seed", "status", f"best {titles[0]}", "best epoch"]
    columns += [*([titles[1]] if has_test else []), f"last {titles[0]}", "seconds"]
    filters = {}
    for name in [*names, "status"]:
        values = [_setting(record, name) for record in records]
        if 1 < len(set(values)) <= _FILTERED:
            filters[name] = sorted(dict.fromkeys(values), key=_numbers_first)
    rows = []
    order = [*names, "seed"]
    places = sorted(range(len(records)), key=lambda i: [_numbers_first(_setting(records[i], name)) for name in order])
    for index in places:
        record = records[index]
        run = record.run
        cells = [*(_setting(record, name) for name in names), _setting(record, "seed")]
        cells += [_status(record), _number(run.value(MONITORED)), _whole(run.best.get("epoch"))]
        cells += [*([_number(run.value(TESTED))] if has_test else []), _number(record.last())]
        cells.append("" if record.seconds is None else f"{record.seconds:.1f}")
        drill = _drill(record, drawn.get(index, [])) if record.folder.is_dir() else None
        rows.append(RunRow(index, run.name, cells, [_setting(record, name) for name in filters], drill))
    return RunTable(columns, number_columns(columns, [row.cells for row in rows]), rows, filters, note)


def _setting(record: Record, name: str) -> str:
    own = {"status": record.run.status, "seed": record.run.seed}
    return shown_value(own[name] if name in own else record.run.setting(name))


def _status(record: Record) -> str:
    return f"{record.run.status} †" if record.run.ended == PRUNED else record.run.status


def _drill(record: Record, images: list[tuple[str, str]]) -> Drill:
    run, env = record.run, record.env
    commands = [shlex.join(map(str, entry["argv"])) for entry in [env, *env.get("resumed", [])] if entry.get("argv")]
    told = {"Folder": str(record.folder), **environment_rows(record)}
    if record.seconds is not None:
        told["Took"] = duration(record.seconds)
    if run.ended:
        told["Ended by"] = f"{run.ended}, after {record.result.get('epochs')} epochs"
    if record.result.get("parameters") is not None:
        told["Parameters"] = f"{record.result['parameters']:,}"
    error = str(record.result.get("error") or "")
    return Drill("\n".join(commands), told, changed(run.config), outcome(record), error, images)


def outcome(record: Record) -> Grid:
    """Metrics of the best epoch and of the last one, a row per metric and stage."""
    run = record.run
    rows = [
        [key, _number(run.best.get(key)), _number(run.last.get(key))]
        for stage in ("val", "test", "train")
        for key in (f"{stage}/{name}" for name in _TOLD)
        if key in run.best or key in run.last
    ]
    columns = ["", "best epoch", "last epoch"]
    return Grid("result", columns, rows, [False, True, True])


def images(records: Sequence[Record]) -> tuple[dict[int, list[tuple[str, str]]], str]:
    """The plots of every run as data URLs, and a sentence where they are left out."""
    paths = {index: images_of(record.folder) for index, record in enumerate(records)}
    count = sum(map(len, paths.values()))
    size = sum(path.stat().st_size for found in paths.values() for path in found)
    if not count:
        return {}, ""
    if len(records) > MOST_WITH_IMAGES or size > MOST_BYTES:
        why = f"{len(records)} runs" if len(records) > MOST_WITH_IMAGES else f"their {size / 1e6:.1f} MB"
        return {}, f"{count} images of the runs are not in this file ({why}): they lie in plots/ of each run's folder."
    return {
        index: [(path.stem.replace("_", " "), as_url(path)) for path in found] for index, found in paths.items()
    }, ""


def images_of(folder: Path) -> list[Path]:
    """The plots of a run at its end."""
    return sorted((folder / "plots").glob("*.png"))


def as_url(path: Path) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2e}"


def _whole(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.0f}"
