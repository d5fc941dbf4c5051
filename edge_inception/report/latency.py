"""Records of ``bench`` and ``compare`` as text, Markdown and JUnit XML.

The JUnit XML has the elements that CI systems read: ``testsuites``, ``testsuite``, and
``testcase`` with ``failure``, ``error`` or ``skipped``.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree as ET

from edge_inception.latency.record import BenchRecord, Layer, ResultRecord, RunRecord, Verdict
from edge_inception.report.markdown import escape
from edge_inception.report.table import finite, number, size
from edge_inception.report.table import milliseconds as _ms

_STATUSES: Mapping[Verdict, str] = {
    Verdict.PASS: "PASSED",
    Verdict.IMPROVED: "PASSED",
    Verdict.FAIL: "FAILED",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.INVALID: "INCONCLUSIVE",
}
_JUNIT_ELEMENTS: Mapping[Verdict, str] = {
    Verdict.FAIL: "failure",
    Verdict.INVALID: "error",
    Verdict.INCONCLUSIVE: "skipped",
}
_MAX_LAYERS = 3
_UNKNOWN_CPU = "unknown CPU"


def bench_lines(record: BenchRecord) -> list[str]:
    """Lines of text for a terminal with the figures of one engine."""
    run, protocol, engine = record.runs[0], record.protocol, record.engine
    lines = [
        f"{record.model.name} {engine.precision} by {engine.backend}, {size(engine.bytes)}",
        (
            f"{record.device.cpu or _UNKNOWN_CPU}: {protocol.threads} threads, "
            f"batch {protocol.batch}, {protocol.streams} streams, fed {protocol.input}"
        ),
        (
            f"latency   p50 {_ms(run.median)}  p90 {_ms(run.p90)}  p95 {_ms(run.p95)}  "
            f"p99 {_ms(run.p99)}  mean {_ms(run.mean)} ms, {run.n} calls"
        ),
        f"speed     {run.throughput:.1f} images/s, host to host",
    ]
    if run.compute_median is not None:
        lines.append(f"compute   p50 {_ms(run.compute_median)} ms on the GPU alone")
    lines.append(
        f"cold      opened in {number(run.open_s, '.2f')} s, first call {_ms(run.first_ms)} ms, "
        f"peak memory {memory(run.peak_mib)}"
    )
    lines += _layers_line(record.layers or ())
    lines += _machine_lines(run)
    lines += [f"warning: {text}" for text in run.warnings]
    return lines


def _layers_line(layers: Sequence[Layer]) -> list[str]:
    """A line with the three slowest layers and the share of each in the time of all layers."""
    ranked = slowest_first(layers)
    total = sum(layer.ms for layer in ranked)
    if not total:
        return []
    shares = (f"{one.name} {one.kind} {100 * one.ms / total:.0f} %" for one in ranked[:_MAX_LAYERS])
    return [f"layers    {', '.join(shares)}"]


def slowest_first(layers: Iterable[Layer]) -> list[Layer]:
    """The layers whose time is a number, from the slowest to the fastest."""
    timed = [layer for layer in layers if finite(layer.ms) is not None]
    return sorted(timed, key=lambda layer: -layer.ms)


def memory(mib: float | None) -> str:
    """A size such as ``113 MiB``; a dash where it is unknown."""
    return number(mib, ".0f", " MiB")


def _machine_lines(run: RunRecord) -> list[str]:
    """Lines with power, highest temperature and clocks, and the names of unreadable figures."""
    readings = []
    if run.power_mw is not None:
        readings.append(f"power {run.power_mw / 1000:.1f} W")
    if run.temp_c.end:
        zone, degrees = max(run.temp_c.end.items(), key=lambda item: item[1])
        readings.append(f"{zone} {degrees:.0f} C")
    if run.cpu_mhz.end:
        readings.append(f"CPU {run.cpu_mhz.end:.0f} MHz")
    if run.gpu_mhz_min:
        readings.append(f"GPU {run.gpu_mhz_min} MHz")
    lines = [f"machine   {', '.join(readings)}"] if readings else []
    if run.unavailable:
        lines.append(f"unknown   {', '.join(sorted(run.unavailable))}: not told by this machine")
    return lines


def status(result: ResultRecord) -> str:
    """Status of a comparison: PASSED, FAILED or INCONCLUSIVE."""
    return _STATUSES[result.verdict]


def verdict_line(result: ResultRecord) -> str:
    """Verdict and reason of a comparison, in the line that is printed last."""
    return f"{status(result)}: {result.verdict.value}, {result.sentence}"


def compare_lines(record: BenchRecord) -> list[str]:
    """Lines of text for a terminal with the figures of both engines and the verdict."""
    assert record.result is not None
    lines = []
    for side, engine in record.engines.items():
        medians = [run.median for run in record.runs_of(side)]
        lines.append(
            f"{side}  {engine.precision} by {engine.backend}, {engine.path}: {_range(medians)}"
        )
    lines += [f"warning: {text}" for text in measurement_warnings(record)]
    if record.accuracy:
        lines.append(f"accuracy  {record.accuracy.sentence}")
    lines.append(verdict_line(record.result))
    return lines


def _range(medians: Sequence[float]) -> str:
    return (
        f"median {_ms(median(medians))} ms, runs {_ms(min(medians))} to {_ms(max(medians))}, "
        f"{len(medians)} processes"
    )


def measurement_warnings(record: BenchRecord) -> list[str]:
    """Warnings of a record's runs, each listed once with the number of runs that have it.

    Two warnings, of device/measure.py and latency/bench.py, contain a figure that differs from run
    to run. The figure is left out, so that the warning is counted as one.
    """
    counts: Counter[str] = Counter()
    for text in (text for run in record.runs for text in run.warnings):
        kind = text.split(" by ")[0] if text.startswith("calls vary") else text
        counts["other programs were busy" if kind.startswith("other programs") else kind] += 1
    total = len(record.runs)
    return [f"{text} in {count} of {total} runs" for text, count in counts.items()]


def to_markdown(record: BenchRecord) -> str:
    """A summary in GitHub's Markdown for a pull request; a comparison's verdict comes first."""
    lines = [f"**{escape(verdict_line(record.result))}**", ""] if record.result else []
    lines += ["| engine | precision and file | p50 ms | p90 ms | p99 ms | processes |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for side, engine in record.engines.items():
        runs = record.runs_of(side)
        figures = zip(*((run.median, run.p90, run.p99) for run in runs), strict=True)
        cells = [_ms(median(one)) for one in figures]
        name = f"{engine.precision} {engine.path}"
        lines.append(f"| {side} | {escape(name)} | {' | '.join(cells)} | {len(runs)} |")
    lines += ["", *(f"- warning: {escape(text)}" for text in measurement_warnings(record)), ""]
    cpu, protocol = escape(record.device.cpu or _UNKNOWN_CPU), record.protocol
    threads = "" if protocol.threads is None else f"{protocol.threads} threads, "
    lines += [f"{cpu}, {threads}batch {protocol.batch}, {record.created_utc}", ""]
    return "\n".join(lines)


def median(values: Iterable[float | None]) -> float | None:
    """Median of the values that are finite numbers; None where none is."""
    numbers = [known for value in values if (known := finite(value)) is not None]
    return statistics.median(numbers) if numbers else None


def to_junit(record: BenchRecord) -> bytes:
    """JUnit XML with a test case for the latency, and for the accuracy where it was judged."""
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
        if verdict in _JUNIT_ELEMENTS:
            ET.SubElement(case, _JUNIT_ELEMENTS[verdict], message=sentence)
        else:
            ET.SubElement(case, "system-out").text = sentence
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text
