"""Records of bench and compare, shown again: on the terminal, as CSV, and on the page."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from edge_inception.cli import main
from edge_inception.report.pairs import pair_changes
from edge_inception.report.timings import Timing, layer_times

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def shown(tmp_path, capsys):
    """(records, flags) -> exit code and what was printed; a file for each record."""

    def show(*records, flags=()):
        paths = [tmp_path / f"record{index}.json" for index, _ in enumerate(records)]
        for path, record in zip(paths, records, strict=True):
            path.write_text(json.dumps(record), encoding="utf-8")
        code = main.run(["report", *map(str, paths), *flags])
        return code, capsys.readouterr()

    return show


@pytest.fixture
def page(shown, tmp_path):
    """Records -> exit code and the page's text."""

    def made(*records):
        out = tmp_path / "page.html"
        code, _ = shown(*records, flags=("--html", str(out)))
        return code, out.read_text(encoding="utf-8")

    return made


@pytest.fixture
def batches(single):
    """What bench writes of two batches."""
    return [single, {**single, "protocol": {**single["protocol"], "batch": 4}}]


def test_a_comparison_ends_with_its_verdict(compared, shown):
    """The exit code is that of compare, of the worse of latency and accuracy."""
    code, said = shown(compared)
    assert code == 6
    assert said.out.splitlines()[-1] == "FAILED: fail, B is 10.0 % slower than A, limit +3 %"
    compared["result"]["verdict"] = "improved"
    compared["accuracy"] = {
        "verdict": "inconclusive", "sentence": "drop 1.00 pp", "num_images": 100,
        "drop_pp": {"value": 1.0, "lower": -1.0, "upper": 3.0},
    }  # fmt: skip
    assert shown(compared)[0] == 8


def test_several_batches_are_all_shown(batches, shown):
    """A list, as bench writes of several batches: each with its figures; exit 0."""
    code, said = shown(batches)
    assert code == 0
    assert "batch 1, 1 streams" in said.out
    assert "batch 4, 1 streams" in said.out


def test_a_damaged_record_is_an_input_error(single, shown):
    """The place is named, and nothing is shown."""
    del single["runs"][0]["p90"]
    code, said = shown(single)
    assert code == 3
    assert "at runs[0]: object missing required field 'p90'" in said.err
    assert not said.out


def test_csv_has_a_line_for_each_run(compared, shown, report):
    """Figures are those of the record; reports, whose columns differ, are not mixed in."""
    code, said = shown(compared, flags=("--csv",))
    assert code == 6
    lines = list(csv.DictReader(io.StringIO(said.out)))
    assert [(line["engine"], line["pair"], line["median"]) for line in lines[:3]] == [
        ("A", "0", "10.0"), ("B", "0", "11.0"), ("A", "1", "10.0"),
    ]  # fmt: skip
    assert lines[1]["path"] == "model.int8.blob"
    code, said = shown(compared, report, flags=("--csv",))
    assert code == 3
    assert "columns differ" in said.err


def test_markdown_of_one_engine_has_no_verdict(single, shown):
    """A table with the engine's line; threads that were not recorded are left out."""
    single["protocol"]["threads"] = None
    code, said = shown(single, flags=("--markdown",))
    assert code == 0
    assert said.out.startswith("| engine | precision and file")
    assert "| A | int8 model.int8.blob | 8.00 |" in said.out
    assert "Test CPU, batch 1" in said.out


def test_the_page_of_a_comparison(compared, page):
    """Verdict first, the ratio with interval and limit, both engines, two charts."""
    code, found = page(compared)
    assert code == 6
    assert found.index(">Failed</h1>") < found.index("<h2")
    for word in ("+10.0 %", "95 %: +8.0 to +12.0; limit +3 %", "10.0 ms", "11.0 ms",
                 "calls vary in 6 of 6 runs", "no INA3221 rails", "0123456789ab"):  # fmt: skip
        assert word in found, word
    assert found.count('<figure class="chart') == 2


def test_the_page_of_batches(batches, page):
    """No verdict is claimed; the largest throughput with its batch; a chart of it."""
    batches[1]["runs"] = [{**batches[1]["runs"][0], "throughput": 250.0}]
    code, found = page(batches)
    assert code == 0
    assert ">Measured</h1>" in found
    assert "250.0<small>images/s at batch 4" in found
    assert "Throughput, images/s" in found


LAYERS = [
    {"name": "stem", "kind": "Convolution", "kernel": "jit_I8", "ms": 3.0},
    {"name": "tail", "kind": "Reorder", "kernel": "jit_f32", "ms": 1.0},
]


def test_layers_are_told_with_their_share(single, shown, page):
    """The slowest first on the terminal; on the page a chart and all of them in a table."""
    single["layers"] = [dict(one) for one in LAYERS]
    assert "layers    stem Convolution 75 %, tail Reorder 25 %" in shown(single)[1].out
    _, found = page(single)
    assert "Slowest layers, ms" in found
    assert "All 2 executed layers" in found
    assert '<td class="number">3.000</td><td class="number">75.0</td>' in found
    single["layers"][0].pop("kind")
    assert "at layers[0]: object missing required field 'kind'" in shown(single)[1].err


def test_times_belong_to_the_file_that_was_timed(single, as_record):
    """A report takes those of a record whose engine has the hash of its own; of others none."""
    engine = {**single["engines"]["A"], "sha256": "ef" * 32}
    other = as_record({**single, "layers": LAYERS, "engines": {"A": engine}})
    layered = as_record({**single, "layers": LAYERS})
    timed = [
        Timing(path=Path("a"), records=(other,)),
        Timing(path=Path("b"), records=(as_record(single), layered)),
    ]
    assert layer_times(timed, "ab" * 32) == {"stem": 3.0, "tail": 1.0}
    assert layer_times(timed, "") == layer_times(timed, "cd" * 32) == {}


def test_reports_and_records_share_a_page(report, compared, single, page):
    """All stand in the overview; the exit code is the worst of them."""
    code, found = page(report, compared, single)
    assert code == 6
    assert "3 results on inception_v4" in found
    for anchor in ("r0", "t0", "t1"):
        assert f'href="#{anchor}"' in found
        assert f'id="{anchor}"' in found


def test_hostile_records_are_text_and_nan_is_a_dash(compared, page):
    """Names of models, files and warnings make no element; NaN is drawn nowhere."""
    compared["model"]["name"] = HOSTILE
    compared["engines"]["B"]["path"] = HOSTILE
    compared["result"].update(ratio=math.nan, ci95=[math.nan, math.inf], delta=math.nan)
    for run in compared["runs"]:
        run.update(warnings=[HOSTILE], median=math.nan, p99=math.nan, open_s=math.inf)
        run["samples_ms"] = [math.nan, *run["samples_ms"][1:]]
    _, found = page(compared)
    assert "<script" not in found
    assert "&lt;script&gt;" in found
    assert "B over A" not in found[: found.index("</header>")]
    assert '"nan' not in found.lower()
    assert ">inf" not in found


def test_changes_are_of_the_blocks_of_a_pair(compared, as_record):
    """B is 10 % above A in each turn of each pair; without whole blocks a pair tells nothing."""
    assert pair_changes(as_record(compared)) == [(i, pytest.approx(10.0)) for i in range(3)]
    compared["runs"][0]["blocks"] = [7, 7]
    assert [number for number, _ in pair_changes(as_record(compared))] == [1, 2]
    day = {"file": "old.json", "created_utc": "2026-11-25T07:00:00Z"}
    assert pair_changes(as_record({**compared, "against": day})) == []
