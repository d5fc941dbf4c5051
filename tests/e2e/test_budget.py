"""build --max-drop: a fragile network is saved, one that cannot be ships nothing, kill -9 or not.

The network is right in float and wrong in plain int8, for known reasons; see ``fragile``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from edge_inception import artifact
from edge_inception.artifact import RangeTable, SearchResult, SimplifiedGraph
from edge_inception.cli import main

pytestmark = pytest.mark.slow
_SPEC = importlib.util.spec_from_file_location("fragile", Path(__file__).with_name("fragile.py"))
fragile = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fragile)

# The names that importing gives to what was called joined, late, mid and last.
KEPT = {"concat": ["conv_4"], "relu_5": ["conv_6"]}


@dataclass(frozen=True)
class Bench:
    """Photos and the two recipes, of the sound network and of the fragile one."""

    sound: Path
    fragile: Path


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("fragile")
    for name, count, seed in (("training", 60, 3), ("calibration", 20, 1), ("validation", 20, 2)):
        fragile.photos(folder / name, count, seed)
    weights = fragile.sound(folder / "training")
    graphs = {"sound": weights, "fragile": fragile.break_it(weights)}
    for name, values in graphs.items():
        onnx.save(fragile.network(values), str(folder / f"{name}.onnx"))
        text = _RECIPE.format(name=name)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return Bench(sound=folder / "sound.toml", fragile=folder / "fragile.toml")


_RECIPE = """\
schema = 1
[model]
onnx = "{name}.onnx"
[preprocess]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
crop_fraction = 1.0
[data]
calibration = "calibration"
validation = "validation"
[build]
precision = "int8"
targets = ["cpu"]
threads = 1
dynamic_batch = "1:8:8"
[calibrate]
calibrator = "max"
effort = "quick"
[quantize]
typing = "strong"
placement = "sandwich"
fold_zero_points = false
[latency]
rounds = 3
calls_per_block = 1
[gates]
max_drop_pp = 3.0
min_speedup = 0    # in so small a network INT8 may well be slower
"""


def build(recipe, out, *more):
    return main.run(["build", "--recipe", str(recipe), "--out", str(out), *more])


def report_of(out):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def drop_pp(report):
    (row,) = (row for row in report["rows"] if row["role"] == "subject")
    return row["accuracy"]["labelled"]["drop_pp"]["value"]


def searched(out):
    return json.loads((out / "model.search.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def saved(bench, tmp_path_factory) -> Path:
    """The fragile network, built within a budget of 1 pp."""
    out = tmp_path_factory.mktemp("saved")
    recipe = bench.fragile.with_name("budget.toml")
    text = bench.fragile.read_text(encoding="utf-8") + "[search]\nmax_drop_pp = 1.0\n"
    recipe.write_text(text, encoding="utf-8")
    assert build(recipe, out) == 0
    return out


def test_plain_int8_breaks_the_fragile_network_alone(bench, tmp_path, capsys):
    """The sound network keeps its top-1 in int8; the fragile one, equal in float, loses a third.

    Without any budget the build keeps the fragile groups in float, and so meets the gate.
    """
    assert build(bench.sound, tmp_path / "a") == 0
    assert abs(drop_pp(report_of(tmp_path / "a"))) <= 1.0
    assert searched(tmp_path / "a")["outcome"]["chosen"]["keep"] == []
    assert build(bench.fragile, tmp_path / "b") == 0
    plain, *_ = searched(tmp_path / "b")["points"]
    assert plain["keep"] == []
    assert plain["drop_pp"] > 33.0
    assert "concat" in searched(tmp_path / "b")["outcome"]["chosen"]["keep"]
    assert drop_pp(report_of(tmp_path / "b")) <= 3.0
    assert not report_of(tmp_path / "b")["search"]  # nobody asked for a budget: no gate on it
    graph, typed = tmp_path / "b" / "model.simplified.onnx", tmp_path / "plain.onnx"
    words = ["quantize", str(graph), "--ranges", str(graph.with_name("model.ranges.json"))]
    words += ["--placement", "sandwich", "--no-fold-zero-points", "--out", str(typed)]
    assert main.run(words) == 0
    words = ["compare-layers", str(graph), str(typed), "--json"]
    capsys.readouterr()
    assert main.run([*words, "--images", str(bench.sound.parent / "validation")]) == 0
    jump = json.loads(capsys.readouterr().out)["jump"]
    assert (jump["name"], jump["noisiest_input"]) == ("conv_4", "concat")


def test_the_page_draws_what_the_search_wrote(saved):
    """Every scored point of a real search is on the chart of placements."""
    from edge_inception.quant import search_record
    from edge_inception.report import rooflines

    record = search_record.read(saved / "model.search.json")
    drawn = rooflines.draw_placements(record)
    assert drawn.description.startswith(f"{len(record.points)} sets of groups in float: ")


def test_the_search_saves_it_with_the_two_groups_that_are_fragile(saved, capsys):
    """Acceptance: within the budget, at most three groups in float, and they are the right ones."""
    report = report_of(saved)
    assert report["verdict"]["status"] == "PASSED"
    assert drop_pp(report) <= 1.0
    assert report["search"]["kept"] == KEPT
    assert report["search"]["is_met"] is True
    assert searched(saved)["points"][0]["drop_pp"] > 33.0
    text = (saved / "report.md").read_text(encoding="utf-8")
    assert "- float in int8: concat, read by conv\\_4" in text
    assert "- float in int8: relu\\_5, read by conv\\_6" in text
    typed = onnx.load(str(saved / "model.int8.onnx"))
    made = {node.output[0]: node for node in typed.graph.node}
    for node in typed.graph.node:
        if node.op_type == "Conv":
            is_int8 = made.get(node.input[0], node).op_type == "DequantizeLinear"
            assert is_int8 != (node.name in {"conv_4", "conv_6"})
    capsys.readouterr()
    before = (saved / "model.search.journal").stat()
    assert build(bench_recipe(saved), saved) == 0
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if line.startswith("search ")).endswith("reused")
    assert not [line for line in lines if " again: " in line]
    after = (saved / "model.search.journal").stat()  # opening it would replace the file
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def bench_recipe(saved):
    """The recipe that ``saved`` was built with."""
    return next(saved.parent.glob("fragile*/budget.toml"))


def test_sensitivity_ranks_the_fragile_groups_first(saved, bench, capsys):
    """From a build's folder alone, and with images: the harm they do is far above the third's."""
    assert main.run(["sensitivity", str(saved), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [one["group"] for one in record["ranking"][:2]] == ["concat", "relu_5"]
    assert all(one["harm"] is None for one in record["ranking"])
    photos = str(bench.fragile.parent / "calibration")
    assert main.run(["sensitivity", str(saved), "--images", photos, "--threads", "1"]) == 0
    text, header, table = capsys.readouterr().out.partition("expected measured    lost   MACs")
    assert header
    above = " ".join(text.split())
    assert "placement sandwich, as in " in above
    assert "2 groups marked * stay float" in above
    assert float(above.partition("all int8 top-1 drop ")[2].split()[0]) > 33.0
    ranked = table.splitlines()[1:]
    # both alone lose more images of those that suffer most than any third group does
    names = [line.split()[4:] for line in ranked]
    assert names[:2] == [["concat*:", "conv_4"], ["relu_5*:", "conv_6"]]
    lost = [float(line.split()[2]) for line in ranked if line.split()[2] != "-"]
    assert min(lost[:2]) > 20.0
    assert max(lost[2:]) < 10.0


def test_sensitivity_follows_the_build_or_the_flag(saved, capsys):
    """The build's placement is ranked, or the one that is named, of which no group is marked."""
    assert main.run(["sensitivity", str(saved), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["placement"], record["kept_float"]) == ("sandwich", sorted(KEPT))
    assert main.run(["sensitivity", str(saved), "--placement", "float-ends", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (other["placement"], other["kept_float"]) == ("float-ends", [])
    assert len(other["ranking"]) < len(record["ranking"])
    assert main.run(["sensitivity", str(saved), "--split", "train"]) == 3
    assert "--split train of no set" in capsys.readouterr().err


def test_a_budget_that_cannot_be_met_ships_nothing(bench, tmp_path, capsys):
    """One group is not enough: exit 6, no int8 engine, and the closest point is named."""
    recipe = bench.fragile.with_name("tight.toml")
    text = bench.fragile.read_text(encoding="utf-8").replace(
        "max_drop_pp = 3.0", "min_sqnr_db = -99"
    )
    text += "[search]\nmax_drop_pp = 1.0\nmax_groups = 1\n"
    recipe.write_text(text, encoding="utf-8")
    assert build(recipe, tmp_path) == 6
    out = " ".join(capsys.readouterr().out.split())
    assert "1 group in float (concat)" in out
    why = "none of 2 scored sets, with up to 1 group in float, meets the budget"
    assert f"{why}; the closest graph is over the 1.00 pp budget" in out
    assert not list(tmp_path.glob("model.int8*.blob*"))
    report = report_of(tmp_path)
    assert report["verdict"]["status"] == "FAILED"
    assert report["search"]["chosen"]["keep"] == ["concat"]
    assert build(recipe, tmp_path, "--keep-failed") == 6
    assert list(tmp_path.glob("model.int8*.blob"))


_SEARCH = """
    import sys
    from pathlib import Path
    from edge_inception import artifact
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.data import imageset
    from edge_inception.quant.options import QuantizeOptions
    from edge_inception.search import scoring
    from edge_inception.search.options import SearchOptions
    from edge_inception.spec import Budget, Precision
    folder, photos, out = map(Path, sys.argv[1:4])
    options = SearchOptions(
        budget=Budget(max_drop_pp=float(sys.argv[4])),
        quantize=QuantizeOptions(
            precision=Precision.INT8, placement="sandwich", fold_zero_points=False
        ),
        threads=1,
    )
    scoring.search_precision(
        artifact.load(SimplifiedGraph, folder / "model.simplified.onnx"),
        artifact.load(RangeTable, folder / "model.ranges.json"),
        imageset.open_set(photos),
        options,
        out,
    )
"""


def test_a_killed_search_finds_the_very_same(saved, bench, tmp_path):
    """kill -9 once a few graphs are scored: the next run goes on and writes the same bytes.

    A third run with another budget scores only what is new.
    """
    import textwrap

    journal = tmp_path / "model.search.journal"

    def start(budget="1.0"):
        code, photos = textwrap.dedent(_SEARCH), bench.fragile.parent / "calibration"
        words = [str(saved), str(photos), str(tmp_path / "model.search.json"), budget]
        return subprocess.Popen([sys.executable, "-c", code, *words])

    process = start()
    while not journal.exists() or len(journal.read_text(encoding="utf-8").splitlines()) < 4:
        assert process.poll() is None, "the search ended before it was killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "model.search.json").exists()
    before = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = "".join(line for line in before if line.endswith("\n"))
    assert start().wait() == 0
    after = journal.read_text(encoding="utf-8")
    assert after.startswith(whole)
    assert (tmp_path / "model.search.json").read_bytes() == (
        saved / "model.search.json"
    ).read_bytes()
    plain, one, *_ = searched(tmp_path)["points"]
    assert (plain["keep"], one["keep"]) == ([], ["concat"])
    assert one["drop_pp"] < plain["drop_pp"]
    assert start(str(one["drop_pp"])).wait() == 0  # the budget that one group just meets
    assert journal.read_text(encoding="utf-8") == after
    assert searched(tmp_path)["outcome"]["chosen"]["keep"] == ["concat"]


def test_what_a_search_stands_on_is_checked(saved):
    """The result and its inputs are artifacts: loaded by kind, with their hashes."""
    assert artifact.load(SearchResult, saved / "model.search.json").details.is_met is True
    parents = artifact.load(SearchResult, saved / "model.search.json").provenance.parents
    graph = artifact.load(SimplifiedGraph, saved / "model.simplified.onnx")
    ranges = artifact.load(RangeTable, saved / "model.ranges.json")
    assert (parents["graph"], parents["ranges"]) == (graph.sha256, ranges.sha256)
