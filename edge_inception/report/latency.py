"""Records of ``bench`` and ``compare`` as text, Markdown and JUnit XML.

Source: "edge-inception/bench", ``validate.bench``; JUnit XML as its consumers read it: testsuites,
testsuite, testcase with failure, error or skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from edge_inception.report.markdown import escape
from edge_inception.report.table import DASH, size
from edge_inception.report.table import milliseconds as _ms

_TITLES = {
    "pass": "PASSED",
    "improved": "PASSED",
    "fail": "FAILED",
    "inconclusive": "INCONCLUSIVE",
    "invalid": "INCONCLUSIVE",
}
_MOST_LAYERS = 3


def bench_lines(record: Mapping[str, Any]) -> list[str]:
    """One engine's figures, for a terminal."""
    run, how = record["runs"][0], record["protocol"]
    engine, device = record["engines"]["A"], record["device"]
    lines = [
        (
            f"{record['model']['name']} {engine['precision']} by {engine['backend']}, "
            f"{size(engine['bytes'])}"
        ),
        (
            f"{device.get('cpu')}: {how['threads']} threads, batch {how['batch']}, "
            f"{how['streams']} streams, fed {how['input']}"
        ),
        (
            f"latency   p50 {_ms(run['median'])}  p90 {_ms(run['p90'])}  p95 {_ms(run['p95'])}  "
            f"p99 {_ms(run['p99'])}  mean {_ms(run['mean'])} ms, {run['n']} calls"
        ),
        f"speed     {run['throughput']:.1f} images/s, host to host",
    ]
    if run.get("compute_median") is not None:
        lines.append(f"compute   p50 {_ms(run['compute_median'])} ms on the GPU alone")
    lines.append(
        f"cold      opened in {run['open_s']:.2f} s, first call {_ms(run['first_ms'])} ms, "
        f"peak memory {memory(run['peak_mib'])}"
    )
    lines += _slowest(record.get("layers", ()))
    lines += _seen(run)
    lines += [f"warning: {text}" for text in run["warnings"]]
    return lines


def _slowest(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The three layers that took longest, each with its share of the time that was counted."""
    total = sum(one["ms"] for one in layers)
    ranked = sorted(layers, key=lambda one: -float(one["ms"]))[:_MOST_LAYERS]
    if not total:
        return []
    told = (f"{one['name']} {one['kind']} {100 * one['ms'] / total:.0f} %" for one in ranked)
    return [f"layers    {', '.join(told)}"]


def memory(mib: float | None) -> str:
    """``113 MiB``; a dash for None."""
    return DASH if mib is None else f"{mib:.0f} MiB"


def _seen(run: Mapping[str, Any]) -> list[str]:
    found = []
    if run.get("power_mw") is not None:
        found.append(f"power {run['power_mw'] / 1000:.1f} W")
    heat = run["temp_c"]["end"]
    if heat:
        zone, degrees = max(heat.items(), key=lambda item: float(item[1]))
        found.append(f"{zone} {degrees:.0f} C")
    clock = run["cpu_mhz"]["end"]
    if clock:
        found.append(f"CPU {clock:.0f} MHz")
    if run["gpu_mhz_min"]:
        found.append(f"GPU {run['gpu_mhz_min']} MHz")
    lines = [f"machine   {', '.join(found)}"] if found else []
    lacking = run.get("unavailable") or {}
    if lacking:
        lines.append(f"unknown   {', '.join(sorted(lacking))}: not told by this machine")
    return lines


def status(record: Mapping[str, Any]) -> str:
    """PASSED, FAILED or INCONCLUSIVE of a comparison."""
    return _TITLES[record["result"]["verdict"]]


def verdict_line(record: Mapping[str, Any]) -> str:
    """The last line people read: verdict and reason."""
    result = record["result"]
    return f"{status(record)}: {result['verdict']}, {result['sentence']}"


def compare_lines(record: Mapping[str, Any]) -> list[str]:
    """Both engines' figures and the verdict, for a terminal."""
    lines = []
    for arm, engine in record["engines"].items():
        medians = [run["median"] for run in record["runs"] if run["arm"] == arm]
        lines.append(
            f"{arm}  {engine['precision']} by {engine['backend']}, {engine['path']}: "
            f"{_range(medians)}"
        )
    lines += [f"warning: {text}" for text in doubts(record)]
    if record.get("accuracy"):
        lines.append(f"accuracy  {record['accuracy']['sentence']}")
    lines.append(verdict_line(record))
    return lines


def _range(medians: Sequence[float]) -> str:
    middle = sorted(medians)[len(medians) // 2]
    return (
        f"median {_ms(middle)} ms, runs {_ms(min(medians))} to {_ms(max(medians))}, "
        f"{len(medians)} processes"
    )


def doubts(record: Mapping[str, Any]) -> list[str]:
    """Each warning once, with the number of runs that have it."""
    counts: dict[str, int] = {}
    for run in record["runs"]:
        for text in run.get("warnings", ()):
            kind = text.split(" by ")[0] if text.startswith("calls vary") else text
            kind = "other programs were busy" if kind.startswith("other programs") else kind
            counts[kind] = counts.get(kind, 0) + 1
    total = len(record["runs"])
    return [f"{text} in {count} of {total} runs" for text, count in counts.items()]


def to_markdown(record: Mapping[str, Any]) -> str:
    """A summary for a pull request, in GitHub's flavour; the verdict first, where there is one."""
    lines = [f"**{escape(verdict_line(record))}**", ""] if "result" in record else []
    lines += ["| arm | engine | p50 ms | p90 ms | p99 ms | processes |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for arm, engine in record["engines"].items():
        runs = [run for run in record["runs"] if run["arm"] == arm]
        cells = [_middle(runs, key) for key in ("median", "p90", "p99")]
        name = f"{engine['precision']} {engine['path']}"
        lines.append(f"| {arm} | {escape(name)} | {' | '.join(cells)} | {len(runs)} |")
    lines += ["", *(f"- warning: {escape(text)}" for text in doubts(record)), ""]
    device = record["device"]
    lines += [
        (
            f"{escape(str(device.get('cpu')))}, {_threads(record['protocol'])}batch "
            f"{record['protocol']['batch']}, {record['created_utc']}"
        ),
        "",
    ]
    return "\n".join(lines)


def _threads(how: Mapping[str, Any]) -> str:
    """Their number before what follows; nothing where it was not recorded."""
    return "" if how["threads"] is None else f"{how['threads']} threads, "


def _middle(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    values = sorted(run[key] for run in runs if run[key] is not None)
    return _ms(values[len(values) // 2]) if values else DASH


def to_junit(record: Mapping[str, Any]) -> bytes:
    """One test case for the latency, one for the accuracy where it was judged."""
    cases = [("latency", record["result"]["verdict"], verdict_line(record))]
    judged = record.get("accuracy")
    if judged:
        cases.append(("accuracy", judged["verdict"], judged["sentence"]))
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="edge-inception compare",
        tests=str(len(cases)),
        failures=str(sum(verdict == "fail" for _, verdict, _ in cases)),
        errors=str(sum(verdict == "invalid" for _, verdict, _ in cases)),
        skipped=str(sum(verdict == "inconclusive" for _, verdict, _ in cases)),
    )
    kinds = {"fail": "failure", "invalid": "error", "inconclusive": "skipped"}
    for name, verdict, sentence in cases:
        case = ET.SubElement(suite, "testcase", classname="edge_inception.compare", name=name)
        if verdict in kinds:
            ET.SubElement(case, kinds[verdict], message=sentence)
        else:
            ET.SubElement(case, "system-out").text = sentence
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text
