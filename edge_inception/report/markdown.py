"""A report as Markdown, for README files and pull requests."""

from __future__ import annotations

from edge_inception.report.table import TableRow, table
from edge_inception.validate.report_record import ReportRecord


def to_markdown(report: ReportRecord) -> str:
    """A table with title, notes and gates; the last line is the verdict."""
    content = table(report)
    heads = [
        f"{name}{unit}" if name.endswith("-") else f"{name} {unit}".strip()
        for name, unit in content.columns
    ]
    lines = [f"{escape(line)}  " for line in content.title]
    lines += ["", f"| | precision | {' | '.join(heads)} |"]
    lines.append(f"|---|---|{'---:|' * len(heads)}")
    lines += [_line(row) for row in content.rows]
    lines.append("")
    lines += [f"{number}. {escape(note)}" for number, note in enumerate(content.notes, start=1)]
    if content.notes:
        lines.append("")
    lines += [f"- chosen for {escape(choice)}" for choice in content.choices]
    lines += [f"- float in int8: {escape(kept)}" for kept in content.kept]
    lines += [f"- groups in float and the drop that is left: {content.front}"] * bool(content.front)
    lines += [f"- {status}: {escape(sentence)}" for status, sentence in content.checks]
    lines += ["", f"**{escape(content.last_line)}**", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """``text`` in one line, with the special characters of Markdown and its tables escaped."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def _line(row: TableRow) -> str:
    name = escape(row.name) + (f" ({row.note_number})" if row.note_number else "")
    cells = [f"{c.value} ({c.interval})" if c.interval else c.value for c in row.cells]
    texts = [f"**{name}**" if row.is_subject else name, escape(row.precision), *cells]
    return f"| {' | '.join(texts)} |"
