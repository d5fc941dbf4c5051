"""Text that fits into the 80 columns of a terminal."""

from __future__ import annotations

import textwrap

WIDTH = 80


def wrapped(lead: str, text: str, *, indent: int) -> str:
    """``lead``, then ``text`` from column ``indent`` on, in lines of at most 80 columns."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=lead.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters: its start, "..", and its end.

    About a third is the start, since the ends of layer names differ more.
    """
    if len(text) <= width:
        return text
    start = max(0, width // 3 - 2)
    return f"{text[:start]}..{text[len(text) - (width - start - 2) :]}"
