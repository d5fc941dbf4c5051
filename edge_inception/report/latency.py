"""Records of ``bench`` and ``compare`` as text, Markdown and JUnit XML.

Source: "edge-inception/bench", ``latency.record``; JUnit XML as its consumers read it: testsuites,
testsuite, testcase with failure, error or skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from edge_inception.latency.facts import UsedProtocol
from edge_inception.latency.record import BenchRecord, Layer, ResultRecord, RunRecord, Verdict
from edge_inception.report.markdown import escape
from edge_inception.report.table import DASH, size
from edge_inception.report.table import milliseconds as _ms

_TITLES: Mapping[Verdict, str] = {
    Verdict.PASS: "PASSED",
    Verdict.IMPROVED: "PASSED",
    Verdict.FAIL: "FAILED",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.INVALID: "INCONCLUSIVE",
}
_JUNIT: Mapping[Verdict, str] = {
    Verdict.FAIL: "failure",
    Verdict.INVALID: "error",
    Verdict.INCONCLUSIVE: "skipped",
}
_MOST_LAYERS = 3


def bench_lines(record: BenchRecord) -> list[str]:
    """One engine's figures, for a terminal."""
    run, how, engine = record.runs[0], record.protocol, record.engine
    lines = [
        f"{record.model.name} {engine.precision} by {engine.backend}, {size(engine.bytes)}",
        (
            f"{record.device.cpu or None}: {how.threads} threads, batch {how.batch}, "
            f"{how.streams} streams, fed {how.input}"
        ),
        (
            f"latency   p50 {_ms(run.median)}  p90 {_ms(run.p90)}  p95 {_ms(run.p95)}  "
            f"p99 {_ms(run.p99)}  mean {_ms(run.mean)} ms, {run.n} calls"
        ),
        f"speed     {run.throughput:.1f} images/s, host to host",
    ]
    if run.compute_median is not None:
        lines.append(f"compute   p50 {_ms(run.compute_median)} ms on the GPU alone")
    opened = DASH if run.open_s is None else f"{run.open_s:.2f}"
    lines.append(
        f"cold      opened in {opened} s, first call {_ms(run.first_ms)} ms, "
        f"peak memory {memory(run.peak_mib)}"
    )
    lines += _slowest(record.layers or ())
    lines += _seen(run)
    lines += [f"warning: {text}" for text in run.warnings]
    return lines


def _slowest(layers: Sequence[Layer]) -> list[str]:
    """The three layers that took longest, each with its share of the time that was counted."""
    total = sum(one.ms for one in layers)
    ranked = sorted(layers, key=lambda one: -one.ms)[:_MOST_LAYERS]
    if not total:
        return []
    told = (f"{one.name} {one.kind} {100 * one.ms / total:.0f} %" for one in ranked)
    return [f"layers    {', '.join(told)}"]


def memory(mib: float | None) -> str:
    """``113 MiB``; a dash for None."""
    return DASH if mib is None else f"{mib:.0f} MiB"


def _seen(run: RunRecord) -> list[str]:
    found = []
    if run.power_mw is not None:
        found.append(f"power {run.power_mw / 1000:.1f} W")
    heat = run.temp_c.end
    if heat:
        zone, degrees = max(heat.items(), key=lambda item: item[1])
        found.append(f"{zone} {degrees:.0f} C")
    if run.cpu_mhz.end:
        found.append(f"CPU {run.cpu_mhz.end:.0f} MHz")
    if run.gpu_mhz_min:
        found.append(f"GPU {run.gpu_mhz_min} MHz")
    lines = [f"machine   {', '.join(found)}"] if found else []
    if run.unavailable:
        lines.append(f"unknown   {', '.join(sorted(run.unavailable))}: not told by this machine")
    return lines


def status(result: ResultRecord) -> str:
    """PASSED, FAILED or INCONCLUSIVE of a comparison."""
    return _TITLES[result.verdict]


def verdict_line(result: ResultRecord) -> str:
    """The last line people read: verdict and reason."""
    return f"{status(result)}: {result.verdict.value}, {result.sentence}"


def compare_lines(record: BenchRecord) -> list[str]:
    """Both engines' figures and the verdict, for a terminal."""
    assert record.result is not None
    lines = []
    for arm, engine in record.engines.items():
        medians = [run.median for run in record.runs_of(arm)]
        lines.append(
            f"{arm}  {engine.precision} by {engine.backend}, {engine.path}: {_range(medians)}"
        )
    lines += [f"warning: {text}" for text in doubts(record)]
    if record.accuracy:
        lines.append(f"accuracy  {record.accuracy.sentence}")
    lines.append(verdict_line(record.result))
    return lines


def _range(medians: Sequence[float]) -> str:
    middle = sorted(medians)[len(medians) // 2]
    return (
        f"median {_ms(middle)} ms, runs {_ms(min(medians))} to {_ms(max(medians))}, "
        f"{len(medians)} processes"
    )


def doubts(record: BenchRecord) -> list[str]:
    """Each warning once, with the number of runs that have it."""
    counts: dict[str, int] = {}
    for text in (text for run in record.runs for text in run.warnings):
        kind = text.split(" by ")[0] if text.startswith("calls vary") else text
        kind = "other programs were busy" if kind.startswith("other programs") else kind
        counts[kind] = counts.get(kind, 0) + 1
    total = len(record.runs)
    return [f"{text} in {count} of {total} runs" for text, count in counts.items()]


def to_markdown(record: BenchRecord) -> str:
    """A summary for a pull request, in GitHub's flavour; the verdict first, where there is one."""
    lines = [f"**{escape(verdict_line(record.result))}**", ""] if record.result else []
    lines += ["| arm | engine | p50 ms | p90 ms | p99 ms | processes |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for arm, engine in record.engines.items():
        runs = record.runs_of(arm)
        figures = zip(*((run.median, run.p90, run.p99) for run in runs), strict=True)
        cells = [_middle(one) for one in figures]
        name = f"{engine.precision} {engine.path}"
        lines.append(f"| {arm} | {escape(name)} | {' | '.join(cells)} | {len(runs)} |")
    lines += ["", *(f"- warning: {escape(text)}" for text in doubts(record)), ""]
    how = record.protocol
    lines += [
        (
            f"{escape(str(record.device.cpu or None))}, {_threads(how)}batch {how.batch}, "
            f"{record.created_utc}"
        ),
        "",
    ]
    return "\n".join(lines)


def _threads(how: UsedProtocol) -> str:
    """Their number before what follows; nothing where it was not recorded."""
    return "" if how.threads is None else f"{how.threads} threads, "


def _middle(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return _ms(known[len(known) // 2]) if known else DASH


def to_junit(record: BenchRecord) -> bytes:
    """One test case for the latency, one for the accuracy where it was judged."""
    assert record.result is not None
    cases = [("latency", record.result.verdict, verdict_line(record.result))]
    if judged := record.accuracy:
        cases.append(("accuracy", judged.verdict, judged.sentence))
    verdicts = [verdict for _, verdict, _ in cases]
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="edge-inception compare",
        tests=str(len(cases)),
        failures=str(verdicts.count(Verdict.FAIL)),
        errors=str(verdicts.count(Verdict.INVALID)),
        skipped=str(verdicts.count(Verdict.INCONCLUSIVE)),
    )
    for name, verdict, sentence in cases:
        case = ET.SubElement(suite, "testcase", classname="edge_inception.compare", name=name)
        if verdict in _JUNIT:
            ET.SubElement(case, _JUNIT[verdict], message=sentence)
        else:
            ET.SubElement(case, "system-out").text = sentence
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text
