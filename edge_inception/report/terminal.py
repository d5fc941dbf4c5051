"""A report on a terminal or in a log: 80 columns, ASCII, the verdict last."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from edge_inception.report.table import Cell, Table, TableRow, table
from edge_inception.validate.report_record import ReportRecord

WIDTH = 80
_STYLES = {
    "PASSED": "bold green",
    "FAILED": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "WARNING": "bold yellow",
}


def print_report(report: ReportRecord, console: Console | None = None) -> None:
    """Print a report; styled on a terminal, plain in a file or pipe.

    Args:
        report: The report to print.
        console: Console to print on; None means standard output.
    """
    out = console or _console()
    content = table(report)
    for line in content.title:
        out.print(Text(line))
    out.print()
    out.print(_grid(content))
    for number, note in enumerate(content.notes, start=1):
        out.print(Text(f"[{number}] {note}"))
    out.print()
    for choice in content.choices:
        out.print(Text(f"{'chosen':<13}{choice}"))
    for kept in content.kept:
        out.print(Text(f"{'in float':<13}{kept}"))
    if content.front:
        out.print(Text(f"{'front':<13}{content.front}"))
    for status, sentence in content.checks:
        out.print(Text.assemble((f"{status:<13}", _STYLES[status]), sentence))
    status, _, reason = content.last_line.partition(":")
    # the verdict is never wrapped, so that a script finds it in the last line
    out.print(Text.assemble((status, _STYLES[status]), f":{reason}"), soft_wrap=True)


def plain_text(report: ReportRecord) -> str:
    """The text that ``print_report`` prints, without styles."""
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=WIDTH, no_color=True, legacy_windows=False))
    return stream.getvalue()


def _console() -> Console:
    console = Console(highlight=False)
    # a pipe has no width, and rich would take that of COLUMNS
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _grid(content: Table) -> RichTable:
    grid = RichTable(box=None, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True)
    grid.add_column(Text(""), overflow="fold", min_width=14)
    for name, unit in content.columns:
        grid.add_column(Text(f"{name}\n{unit}"), justify="right", no_wrap=True)
    for row in content.rows:
        style = "bold" if row.is_subject else ""
        grid.add_row(_name(row), *(_cell(cell) for cell in row.cells), style=style)
    return grid


def _name(row: TableRow) -> Text:
    mark = f" [{row.note_number}]" if row.note_number else ""
    return Text.assemble(row.name, (mark, "dim"), (f"\n{row.precision}", "dim"))


def _cell(cell: Cell) -> Text:
    return Text.assemble(cell.value, (f"\n{cell.interval}", "dim"))
