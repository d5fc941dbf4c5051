from __future__ import annotations

import io
import json
import math
import re

import msgspec
import pytest
from rich.console import Console

from edge_inception.errors import InputError
from edge_inception.latency import machine
from edge_inception.latency.measure import Latency, LatencyOptions
from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import ScoredSet, SearchOutcome
from edge_inception.report import table
from edge_inception.report.markdown import escape, to_markdown
from edge_inception.report.terminal import plain_text, print_report
from edge_inception.validate import report_record
from edge_inception.validate.report_record import (
    Accuracy,
    Check,
    LabelledAccuracy,
    LabelMetrics,
    ReportFiles,
    ReportRecord,
    Role,
    Row,
    Status,
    ValidationSet,
    Verdict,
)


def _estimate(value, lower, upper):
    return Estimate(value=value, lower=lower, upper=upper, method="test")


def _scores(top1):
    return LabelMetrics(
        top1=_estimate(top1, top1 - 0.034, top1 + 0.029),
        balanced_accuracy=0.7,
        recall=(0.9, 0.5),
        confusion=(),
        auroc=None,
    )


def _accuracy(top1=0.8419, sqnr=31.25, *, is_labelled=True):
    labelled = LabelledAccuracy(
        num_images=525,
        baseline=_scores(0.85),
        engine=_scores(top1),
        num_right_to_wrong=0,
        num_wrong_to_right=0,
        drop_pp=_estimate(0.0, -0.5, 0.5),
        confusion_change=(),
    )
    return Accuracy(
        num_images=525,
        num_classes=2,
        agreement=_estimate(0.9962, 0.986, 0.9993),
        sqnr_db=sqnr,
        labelled=labelled if is_labelled else None,
    )


def _latency(p50, *, p99: float | None = 175.3, foreign_cores=0.04):
    return Latency(
        name="engine",
        num_calls=200,
        batch=1,
        threads=2,
        p50_ms=p50,
        p90_ms=p50 * 1.02,
        p99_ms=p99,
        mean_ms=p50,
        variation=0.1,
        block_medians_ms=(p50,),
        foreign_cores=foreign_cores,
        info={},
    )


def _row(name, role="other", **facts):
    unmeasured = {
        "backend": "openvino", "precision": "int8", "float_precision": "bf16", "accuracy": None,
        "latency": None, "speedup": None, "size_bytes": None, "weight_bytes": None,
        "executed_layers": {}, "note": "",
    }  # fmt: skip
    return Row(name=name, role=Role(role), **(unmeasured | facts))


def _report(*rows, status="PASSED", sentence="all is well", search=None):
    check = Check(
        name="gate",
        wanted=1.0,
        got=None,
        lower=None,
        upper=None,
        status=Status(status),
        sentence=sentence,
    )
    here = {"cpu": "AMD EPYC", "instruction_sets": ("avx512_vnni",), "affinity": (0, 1)}
    return ReportRecord(
        model="inception_v4",
        created_utc="2026-11-23T20:00:00+00:00",
        data=ValidationSet(
            name="solar/validation", sha256="ab" * 32, num_images=525, classes=("good", "bad")
        ),
        rows=rows,
        verdict=Verdict(status=Status(status), sentence=sentence, checks=(check,)),
        search=search,
        machine=msgspec.structs.replace(machine.describe(), **here),
        latency_options=LatencyOptions(batch=1, rounds=8),
        context=ReportFiles(engines={}, baseline_sha256="cd" * 32),
    )


def _full():
    return _report(
        _row(
            "PyTorch",
            "baseline",
            precision="fp32",
            float_precision="f32",
            accuracy=_accuracy(sqnr=math.inf),
            latency=_latency(168.2),
            speedup=_estimate(0.4, 0.38, 0.41),
            size_bytes=170_719_264,
        ),
        _row(
            "OpenVINO",
            "subject",
            accuracy=_accuracy(0.84),
            latency=_latency(11.7, p99=13.1),
            speedup=_estimate(14.4, 14.1, 14.7),
            size_bytes=43_000_000,
            executed_layers={"Convolution i8": 149, "Pooling i8": 14, "Softmax f32": 5},
        ),
        _row(
            "TensorRT-RTX",
            note="compiled, not executed here",
            size_bytes=44_000_000,
            weight_bytes=42_900_000,
        ),
    )


def test_every_number_of_the_report_is_on_the_page():
    """The values handed in are found in terminal text and Markdown, in the units of the heads."""
    for page in (plain_text(_full()), to_markdown(_full())):
        for value in ("168.2", "11.7", "13.1", "14.40x", "84.00", "99.62", "31.2", "41.0 MiB"):
            assert value in page, value
        assert "compiled, not executed here" in page
        assert "weights 40.9 MiB" in page
        assert "executed layers: 163 i8, 5 f32" in page


def test_the_plain_table_fits_80_columns_and_is_ascii():
    """A log or a pipe gets lines of at most 80 characters, no escape codes, no box drawing."""
    text = plain_text(_full())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.isascii()
    assert "\x1b" not in text


def test_no_cell_is_cut_off():
    """Three-digit latencies, wide intervals and long names wrap or fit, without an ellipsis."""
    report = _report(
        _row(
            "a backend with a long name indeed",
            "subject",
            accuracy=_accuracy(1.0 - 0.029, sqnr=-12.5),
            latency=_latency(1234.5, p99=1876.5),
            speedup=_estimate(14.4, 11.11, 17.77),
            size_bytes=999 * 1024**2,
        )
    )
    text = plain_text(report)
    for value in ("1234.5", "1876.5", "11.11-17.77", "93.7-100.0", "-12.5", "999.0 MiB", "indeed"):
        assert value in text, value
    assert max(len(line) for line in text.splitlines()) <= 80


def test_what_was_not_measured_is_a_dash_with_a_reason():
    """A compiled engine shows dashes in all six measured columns and its note."""
    row = table.table(_full()).rows[2]
    assert [cell.value for cell in row.cells[:7]] == ["-"] * 7
    assert row.cells[7].value == "42.0 MiB"
    assert row.note_number is not None
    assert "compiled, not executed" in table.table(_full()).notes[row.note_number - 1]


def test_the_baseline_does_not_compare_with_itself():
    """Agreement and SQNR of PyTorch with PyTorch say nothing, so they are dashes."""
    row = table.table(_full()).rows[0]
    assert [row.cells[1].value, row.cells[2].value] == ["-", "-"]


def test_missing_labels_and_a_missing_p99_are_explained():
    """No labels: no top-1. Under 100 calls: no p99. Both say so."""
    report = _report(
        _row("x", "subject", accuracy=_accuracy(is_labelled=False), latency=_latency(5.0, p99=None))
    )
    found = table.table(report)
    assert found.rows[0].cells[0].value == "-"
    assert found.rows[0].cells[5].value == "-"
    assert found.notes == ("p99 needs 100 timed calls or more; no labels, so no top-1",)


def test_rows_with_the_same_note_share_it():
    """One reason is printed once."""
    report = _report(_row("a", "subject", note="same"), _row("b", note="same"))
    found = table.table(report)
    assert found.notes == ("same",)
    assert [row.note_number for row in found.rows] == [1, 1]


@pytest.mark.parametrize("status", ["PASSED", "FAILED", "INCONCLUSIVE"])
def test_the_last_line_is_the_verdict_with_its_reason(status):
    """However long the reason is, the last line starts with the status and is one line."""
    reason = "a reason, " * 20 + "the end"
    report = _report(_row("x", "subject", note="n"), status=status, sentence=reason)
    assert plain_text(report).splitlines()[-1] == f"{status}: {reason}"


def test_warnings_stand_with_the_gates_above_the_verdict():
    """On a terminal and in Markdown each has a line, and the verdict counts them."""
    report = _report(_row("x", "subject", note="n"))
    warned = msgspec.structs.replace(report.verdict, warnings=("no * sense", "few"))
    report = msgspec.structs.replace(report, verdict=warned)
    assert plain_text(report).splitlines()[-3:] == [
        "WARNING      no * sense",
        "WARNING      few",
        "PASSED: all is well (2 warnings)",
    ]
    assert to_markdown(report).splitlines()[-4:] == [
        r"- WARNING: no \* sense",
        "- WARNING: few",
        "",
        "**PASSED: all is well (2 warnings)**",
    ]


def test_markdown_is_a_table_of_equal_columns():
    """Each table line has as many cells as the head, and the subject is bold."""
    lines = [line for line in to_markdown(_full()).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert lines[3].startswith("| **OpenVINO (1)** |")


def test_markdown_shows_hostile_names_as_they_are():
    """A pipe or a star in a name neither breaks the table nor styles it."""
    assert escape("a|b*c_d\n") == r"a\|b\*c\_d "
    page = to_markdown(_report(_row("a|b", "subject", note="n")))
    assert r"a\|b" in page


def test_a_terminal_gets_colour_and_a_pipe_does_not():
    """The same report is styled for a terminal only."""
    stream = io.StringIO()
    print_report(
        _full(), Console(file=stream, width=100, force_terminal=True, color_system="standard")
    )
    assert "\x1b[" in stream.getvalue()


def test_a_pipe_is_80_columns_whatever_the_environment_says(capsys, monkeypatch):
    """COLUMNS=20 in a cron job does not squeeze the table."""
    monkeypatch.setenv("COLUMNS", "20")
    print_report(_full())
    assert capsys.readouterr().out == plain_text(_full())


@pytest.mark.parametrize("change", [{"schema": "other"}, {"schema_version": 2}])
def test_another_schema_is_refused(change):
    """A JSON of another kind or version is named, not half shown."""
    with pytest.raises(InputError, match="not a report"):
        report_record.convert(report_record.to_json(_full()) | change, where="report.json")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes(num_bytes, text):
    """Binary units, as `ls -h` would print them."""
    assert table.size(num_bytes) == text


def test_the_report_may_come_from_a_file():
    """A report that went through JSON text looks the same."""
    value = json.loads(json.dumps(report_record.to_json(_full())))
    assert plain_text(report_record.convert(value, where="report.json")) == plain_text(_full())


@pytest.mark.parametrize(
    ("graph", "arithmetic", "text"),
    [
        ("fp32", "f32", "fp32"),
        ("fp16", "f16", "fp16"),
        ("fp32", "bf16", "fp32 at bf16"),
        ("int8", "f32", "int8, rest f32"),
        ("int8", "", "int8"),
    ],
)
def test_precision_names_graph_and_arithmetic(graph, arithmetic, text):
    """The float arithmetic is named where the graph does not already say it."""
    row = _row("x", "subject", precision=graph, float_precision=arithmetic, note="n")
    assert table.table(_report(row)).rows[0].precision == text


def test_a_busy_machine_is_told():
    """Latencies taken beside other programs carry the warning, on a quiet machine there is none."""
    noisy = _latency(5.0, foreign_cores=1.62)
    report = _report(_row("x", "subject", latency=noisy, note="n"))
    assert "not a quiet machine: other programs used 1.6 cores" in plain_text(report)
    assert "quiet" not in plain_text(_full())


def test_the_front_of_a_search_tells_what_each_drop_costs():
    """One step for each drop that nothing cheaper reaches; a tie in drop is no step."""
    front = tuple(
        ScoredSet(
            keep=keep,
            drop_pp=drop,
            noise_to_signal=0.1,
            worst_tenth_noise_to_signal=0.2,
            float_share_of_macs=share,
        )
        for keep, share, drop in (
            ((), 0.0, 47.5),
            (("a",), 0.381, 10.83),
            (("a", "b"), 0.4, 10.83),
            (("a", "c"), 0.448, 0.0),
        )
    )
    search = SearchOutcome(
        metric="top-1 drop",
        num_images=64,
        fp32_top1=0.9,
        max_drop_pp=0.5,
        drop_type="absolute",
        allowed_pp=0.5,
        is_met=True,
        why="the fewest",
        chosen=front[-1],
        kept={"a": ("conv",), "c": ("gemm",)},
        front=front,
    )
    int8 = _row("int8", role="subject", note="n")
    report = _report(int8, search=search)
    steps = (
        "0 groups, 0.0 % of the multiply-adds: 47.50 pp; 1 group, 38.1 % of the multiply-adds: "
        "10.83 pp; 2 groups, 44.8 % of the multiply-adds: 0.00 pp"
    )
    assert f"front {steps}" in " ".join(plain_text(report).split())
    assert f"- groups in float and the drop that is left: {steps}" in to_markdown(report)
    met = msgspec.structs.replace(search, front=front[:1])  # by plain int8: nothing to choose from
    assert "front" not in plain_text(_report(int8, search=met))
