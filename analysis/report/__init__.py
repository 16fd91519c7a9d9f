"""A report of many runs, or of two beside each other: one HTML file that needs no server and no network."""

from __future__ import annotations

from regx.analysis.report.asked import Asked
from regx.analysis.report.page import is_report, write
from regx.analysis.report.records import Record, of_folders, of_sweep
from regx.analysis.report.report import page_of
from regx.analysis.report.two import NAMES, comparison, page_of_two, remarks

__all__ = [
    "NAMES",
    "Asked",
    "Record",
    "comparison",
    "is_report",
    "of_folders",
    "of_sweep",
    "page_of",
    "page_of_two",
    "remarks",
    "write",
]
