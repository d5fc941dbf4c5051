"""What people see and what the log keeps."""

from __future__ import annotations

import datetime as dt
import io
import logging
import re
import sys

import pytest

from edge_inception.cli._layout import wrapped
from edge_inception.cli._terminal import Terminal
from edge_inception.errors import InputError
from edge_inception.pipeline.runner import summarize_counts


@pytest.mark.parametrize(
    ("verbosity", "wanted"), [(-1, []), (0, ["a note"]), (1, ["a note", "a detail"])]
)
def test_verbosity_decides_what_people_see(verbosity, wanted, capsys):
    """Quiet shows nothing, the default notes, --verbose details too; all on stderr."""
    terminal = Terminal(verbosity=verbosity)
    terminal.note("a note")
    terminal.detail("a detail")
    terminal.log("for the file")
    terminal.close()
    said = capsys.readouterr()
    assert said.err.splitlines() == wanted
    assert said.out == ""


def test_log_file_keeps_every_line_with_a_utc_time(tmp_path, capsys):
    """However quiet the terminal, the log has all lines; a second run appends to it."""
    path = tmp_path / "build.log"
    before = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    for run in ("first", "second"):
        terminal = Terminal(verbosity=-1, log_file=path)
        terminal.note(f"{run} note é")
        terminal.detail(f"{run} detail")
        terminal.log(f"{run} error")
        terminal.close()
    after = dt.datetime.now(dt.timezone.utc)
    lines = path.read_text(encoding="utf-8").splitlines()
    words = ("note é", "detail", "error")
    assert [line[21:] for line in lines] == [f"{r} {w}" for r in ("first", "second") for w in words]
    for line in lines:
        when = dt.datetime.strptime(line[:20], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.timezone.utc)
        assert before <= when <= after
    assert capsys.readouterr().err == ""


def test_log_file_that_cannot_be_written(tmp_path):
    """A folder that does not exist is an input error naming the file."""
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "absent" / "x.log"))):
        Terminal(log_file=tmp_path / "absent" / "x.log")


def test_progress_off_a_terminal_draws_nothing(capsys):
    """In a pipe the bar is silent and the callback can be called."""
    terminal = Terminal()
    with terminal.working("stage") as progress:
        progress(1, 2)
    terminal.close()
    assert capsys.readouterr().err == ""


def test_a_bar_has_stage_count_rate_and_time_left(monkeypatch):
    """On a terminal all four are drawn, and the bar is gone when the stage has ended."""

    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with terminal.working("calibrate") as progress:
        for done in (1, 2, 3):
            progress(done, 8)
    terminal.close()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"calibrate +\S+ 3/8 +[\d.e+]+/s +-?\d:\d\d:\d\d", drawn), drawn
    assert screen.getvalue().rstrip("\x1b[?25h").endswith("\x1b[2K")


def test_log_records_of_the_package(capsys):
    """Warnings reach everyone, information those with --verbose, nothing after close."""
    logger = logging.getLogger("edge_inception.somewhere")
    terminal = Terminal(verbosity=0)
    logger.info("converted %s", "f16")
    logger.warning("odd %d", 1)
    terminal.close()
    assert capsys.readouterr().err.splitlines() == ["warning: odd 1"]
    terminal = Terminal(verbosity=1)
    logger.info("converted %s", "f16")
    terminal.close()
    logger.info("after close")
    assert capsys.readouterr().err.splitlines() == ["  converted f16"]


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({}, ""),
        ({"Conv": 149, "Relu": 149, "Gemm": 1}, "299 nodes"),
        ({"images": 40, "labelled": 40, "left_out": 0}, "40 images"),
        ({"num_nodes": 5, "num_nodes_before": 9, "Conv": 2}, "5 nodes, were 9"),
        ({"num_nodes": 5}, "5 nodes"),
        ({"num_nodes": 5, "num_scaled": 4, "num_unscaled": 1}, "5 nodes"),
        (
            {"num_distinct_scales": 3, "num_scaled": 4, "num_unscaled": 1},
            "4 tensors with a scale, 1 without",
        ),
        (
            {"num_from_cache": 8, "num_not_in_graph": 2, "num_tensors": 9},
            "8 of 9 tensors found in the cache",
        ),
        (
            {
                "conv_quantized": 3,
                "conv_total": 4,
                "gemm_quantized": 1,
                "gemm_total": 1,
                "num_nodes": 5,
            },
            "3 of 4 Conv, 1 of 1 Gemm in int8",
        ),
    ],
)
def test_counted_work_in_few_words(counts, wanted):
    """People get the figure that matters; --verbose names them all."""
    assert summarize_counts(counts) == wanted
    full = summarize_counts(counts, is_full=True)
    assert full == ", ".join(f"{name} {value}" for name, value in counts.items())


def test_wrapped_keeps_to_80_columns():
    """The text starts at its column on every line; no word is lost or broken."""
    words = [f"word-{index}" for index in range(40)]
    lines = wrapped("lead", " ".join(words), indent=12).splitlines()
    assert lines[0].startswith("lead        word-0")
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert " ".join(line[12:] for line in lines).split() == words
