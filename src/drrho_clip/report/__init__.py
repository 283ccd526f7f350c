"""Reports: the comparison table, and one self-contained HTML page with curves and a gallery of samples."""

from drrho_clip.report.config import ReportConfig
from drrho_clip.report.results import Results, load_results
from drrho_clip.report.step import write_report
from drrho_clip.report.table import COLUMNS, Column, Measured, Row, comparison_table, render_table

__all__ = [
    "COLUMNS",
    "Column",
    "Measured",
    "ReportConfig",
    "Results",
    "Row",
    "comparison_table",
    "load_results",
    "render_table",
    "write_report",
]
