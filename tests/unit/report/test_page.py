"""The page of a report: what stands in it, and that hostile reports stay text."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import io
import json
import math
import sys

import pytest
import sidecars
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import Provenance, RangeTable, Report, SimplifiedGraph
from edge_inception.cli import main
from edge_inception.report import charts
from edge_inception.report.to_csv import to_csv
from edge_inception.validate import report_record

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


class Parsed(html.parser.HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture
def page(tmp_path):
    """Reports to the page's text, by the command; the exit code is checked by those who care."""

    def made(*records):
        paths = []
        for index, record in enumerate(records):
            paths.append(tmp_path / f"report{index}.json")
            paths[-1].write_text(json.dumps(record), encoding="utf-8")
        out = tmp_path / "page.html"
        made.code = main.run(["report", *map(str, paths), "--html", str(out)])
        return out.read_text(encoding="utf-8") if out.is_file() else None

    return made


def _published(report, folder):
    """A build folder of a report and files that onnx would be needed to read."""
    made = Provenance(stage="test", parents={}, options={}, tools={}, source="")
    for kind, name, content in (
        (SimplifiedGraph, "model.simplified.onnx", b"a graph"),
        (RangeTable, "model.ranges.json", b"{}"),
        (Report, "report.json", json.dumps(report).encode()),
    ):
        artifact.publish(kind, folder / name, content, provenance=made, details=sidecars.of(kind))
    return folder


def test_what_needs_a_library_is_named_where_it_is_missing(report, tmp_path, monkeypatch, capsys):
    """Without onnx: one line on the page and on stderr names what is missing and the extra."""
    monkeypatch.setitem(sys.modules, "onnx", None)  # as in the base install
    out = tmp_path / "page.html"
    (tmp_path / "build").mkdir()
    folder = _published(report, tmp_path / "build")
    assert main.run(["report", str(folder), "--html", str(out)]) == 0
    words = Parsed(out.read_text(encoding="utf-8")).text
    told = "ot on the page: block diagram, rooflines, calibration, which need onnx: pip install"
    assert f"N{told} 'edge-inception[compile]'" in words
    assert f"n{told}" in capsys.readouterr().err


def test_the_verdict_stands_first(report, page):
    """The first heading is the verdict, beside it what it is about; the exit code is its own."""
    found = page(report)
    assert page.code == 0
    assert found.index("<h1") < found.index("<h2")
    words = Parsed(found).text
    for word in ("Passed", "89.00 %", "+1.00 pp", "2.50x", "8.00 ms", "3.0 MiB", "30% of"):
        assert word in words, word


def test_a_page_needs_nothing_outside_of_itself(report, page):
    """No script, no address, nothing that is fetched; its policy forbids both besides."""
    found = page(report)
    parsed = Parsed(found)
    assert not {"script", "iframe", "object", "embed", "base"} & set(parsed.tags)
    names = {"src", "href", "xlink:href", "action", "poster", "srcset"}
    targets = [value for name, value in parsed.attributes if name in names]
    assert all(value.startswith(("#", "data:")) for value in targets), targets
    assert "url(" not in found
    assert "@import" not in found
    assert "default-src 'none'" in found


def test_warnings_stand_with_the_verdict(report, page):
    """Before what was measured, in words, since colour alone tells some readers nothing."""
    report["verdict"].update(warnings=["the labels make no sense"])
    words = Parsed(page(report)).text
    assert "Warning: the labels make no sense" in words
    assert words.index("Warning:") < words.index("What was measured")


@pytest.mark.parametrize(
    "where", ["model", "class", "row", "note", "sentence", "warning", "set", "machine"]
)
def test_a_hostile_text_is_only_text(where, report, page):
    """HTML and template signs in any name make no element and no attribute, and can be read."""
    place = {
        "model": lambda: report.update(model=HOSTILE),
        "class": lambda: report["data"].update(classes=[HOSTILE, "bad"]),
        "row": lambda: report["rows"][2].update(name=HOSTILE),
        "note": lambda: report["rows"][2].update(note=HOSTILE),
        "sentence": lambda: report["verdict"].update(sentence=HOSTILE),
        "warning": lambda: report["verdict"].update(warnings=[HOSTILE]),
        "set": lambda: report["data"].update(name=HOSTILE),
        "machine": lambda: report["machine"].update(cpu=HOSTILE),
    }
    place[where]()
    parsed = Parsed(page(report))
    assert "script" not in parsed.tags
    assert "img" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "alert(1)" in parsed.text
    assert "{{7*7}}" in parsed.text


def test_nan_is_a_dash_and_is_not_drawn(report, page):
    """Results that are NaN or infinite show as such or as a dash; no coordinate is NaN."""
    subject = report["rows"][2]
    subject["latency"].update(p50_ms=math.nan, p90_ms=math.inf, samples_ms=[math.nan, 8.0])
    subject["speedup"] = {
        "value": math.nan, "lower": -math.inf, "upper": math.inf, "method": "by hand",
    }  # fmt: skip
    subject["accuracy"]["labelled"]["engine"]["top1"]["value"] = math.nan
    subject["accuracy"]["sqnr_db"] = "-inf"
    subject["accuracy"]["labelled"]["engine"]["recall"] = [None, math.nan]
    found = page(report)
    assert page.code == 0
    drawn = found[found.index("<svg") :]
    values = [value or "" for name, value in Parsed(drawn).attributes if name != "aria-label"]
    assert not [value for value in values if "NaN" in value or "Infinity" in value]
    head = Parsed(found[found.index("<header") : found.index("</header>")]).text
    assert "- ms" in head
    assert "nan" not in head.replace("inconclusive", "")


def test_nothing_measured_is_a_page_all_the_same(report, page):
    """No image, no accuracy, no latency: a page that says so, without charts."""
    report["data"].update(num_images=0, classes=[])
    for entry in report["rows"]:
        entry.update(accuracy=None, latency=None, speedup=None, size_bytes=None, note="not run")
    report.update(machine=None, latency_options=None)
    report["verdict"].update(status="INCONCLUSIVE", sentence="nothing was measured", checks=[])
    found = page(report)
    assert page.code == 8
    assert "<svg" not in found
    assert "0 images" in Parsed(found).text


def test_ten_thousand_classes_are_the_twenty_that_changed(report, page):
    """The page stays small, names the class that changed most first and says how many there are."""
    count = 10_000
    report["data"]["classes"] = [f"class number {i}" for i in range(count)]
    labelled = report["rows"][2]["accuracy"]["labelled"]
    labelled["baseline"]["recall"] = [0.5] * count
    labelled["engine"]["recall"] = [0.5] * 7_000 + [0.1] + [0.5] * 2_999
    found = page(report)
    assert len(found) < 500_000
    words = Parsed(found).text
    assert "20 of 10000 classes" in words
    assert words.index("class number 7000") < words.index("class number 0")


def test_a_damaged_report_is_an_input_error(report, page, capsys):
    """A key of another type is named; no page is written."""
    report["rows"][1]["latency"]["p50_ms"] = "fast"
    assert page(report) is None
    assert page.code == 3
    assert "rows[1].latency.p50_ms" in capsys.readouterr().err


def test_many_reports_have_an_overview_and_the_newest_first(report, page):
    """Each report has a line; the page starts with the newest, whose verdict is the exit code."""
    newer = {**report, "created_utc": "2026-11-26T20:00:00Z"}
    newer["verdict"] = {"status": "FAILED", "sentence": "worse", "checks": []}
    words = Parsed(page(report, newer)).text
    assert page.code == 6
    assert words.index("2026-11-26T20:00:00Z") < words.index("2026-11-25T20:00:00Z")


def test_csv_has_a_line_for_each_engine(report):
    """Numbers are those of the report; a name that is a formula to a spreadsheet is not one."""
    report["rows"][2]["name"] = "=1+1"
    record = report_record.convert(report, where="a.json")
    lines = list(csv.DictReader(io.StringIO(to_csv({"a.json": record}))))
    assert [line["row"] for line in lines] == ["PyTorch FP32", "engine f32 (cpu)", "'=1+1"]
    assert float(lines[2]["p50_ms"]) == 8.0
    assert float(lines[2]["top1"]) == 0.89
    assert lines[0]["p99_ms"] == ""


def test_the_front_is_what_no_other_beats():
    """Of points (latency, error): each on the front is beaten by none in both, all others are."""
    points = [(3.0, 1.0), (1.0, 5.0), (2.0, 6.0), (2.0, 2.0), (4.0, 1.0)]
    found = charts.pareto_front(points)
    beaten = {
        i
        for i, (x, y) in enumerate(points)
        if any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    assert set(found) == set(range(len(points))) - beaten


def test_images_that_changed_have_both_scores(report, page):
    """Name, label, and of either model the class it chose with its probability."""
    words = Parsed(page(report)).text
    for word in ("cell.png", "is good", "good 60.0 %", "bad 40.0 %", "bad 55.0 %", "now wrong"):
        assert word in words, word


def test_a_thumbnail_is_of_the_very_image(report, page, tmp_path):
    """The picture is shown where its hash is the recorded one; another file of its name is not."""
    picture = tmp_path / "cell.png"
    Image.new("RGB", (300, 300), "red").save(picture)
    (changed,) = report["rows"][2]["accuracy"]["changed"]
    changed["image"] = str(picture)
    assert "data:image/jpeg" not in page(report)
    changed["sha256"] = hashlib.sha256(picture.read_bytes()).hexdigest()
    assert "data:image/jpeg" in page(report)
