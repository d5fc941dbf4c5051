"""The verdict and the table of `int8_peers.py`, from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GOAL_DROP_PP, GOAL_OVER_LEGAL_DB, GOAL_DB, GOAL_RATIO = 0.5, 3.0, 36.0, 1.10
GOAL_DB_FOR_CPUS, GOAL_RATIO_FOR_CPUS = 39.0, 1.02
_COLUMNS = (
    *("network", "quantizer", "top-1 %", "balanced %", "drop pp", "agree %", "SQNR dB"),
    *(
        "executed dB",
        "p50 ms",
        "ours over it",
        "for CPUs over it",
        "RTX",
        "int8 kB",
        "kernels",
        "CPU s",
        "MiB",
    ),
)


def judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first criterion of acceptance, with the figures that decide it."""
    ours = next(row for row in rows if row["name"] == "ours")
    rivals = [row for row in rows if not row["calibrator"]]
    legal = max((row for row in rivals if row["is_legal"]), key=_sqnr)
    for_cpus = _row(rows, "ours-cpu")
    drop = ours["written"]["drop_pp"]["upper"]
    timed = _row(rows, "nncf-performance")["latency"]
    ratio, ratio_for_cpus = (timed[key]["upper"] for key in ("ours_over_it", "for_cpus_over_it"))
    over = _sqnr(ours) - _sqnr(legal)
    return {
        "drop_upper_pp": drop,
        "drop": "met" if drop <= GOAL_DROP_PP else "INCONCLUSIVE",
        "images_to_decide": ours["images_to_decide"],
        "best_legal_rival": legal["name"],
        "db_over_best_legal": over,
        "latency_over_nncf_upper": ratio,
        "latency_for_cpus_over_nncf_upper": ratio_for_cpus,
        "is_over_legal_met": over >= GOAL_OVER_LEGAL_DB and _sqnr(ours) >= GOAL_DB,
        "is_for_cpus_met": _sqnr(for_cpus) >= GOAL_DB_FOR_CPUS,
        "is_latency_met": ratio <= GOAL_RATIO,
        "is_latency_for_cpus_met": ratio_for_cpus <= GOAL_RATIO_FOR_CPUS,
    }


def _sqnr(row: dict[str, Any]) -> float:
    return float(row["written"]["sqnr_db"])


def _row(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def per_image(made: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """Slope of CPU time and memory over the number of images, and what they were."""
    first, last = made
    more = counts[1] - counts[0]
    return {
        "num_images": list(counts),
        "cpu_s": [round(one["cpu_s"], 2) for one in made],
        "peak_mib": [round(one["peak_mib"], 1) for one in made],
        "cpu_s_per_image": round((last["cpu_s"] - first["cpu_s"]) / more, 3),
        "peak_mib_per_image": round((last["peak_mib"] - first["peak_mib"]) / more, 2),
    }


def markdown(record: dict[str, Any]) -> str:
    """All networks in one table, then the cost of calibration at full size."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|---|" + "---:|" * (len(_COLUMNS) - 2)]
    for network in record.get("networks", ()):
        exact = network["float"]
        cells = [_title(network), "float32", *_accuracy(exact)]
        cells += ["-"] * (len(_COLUMNS) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
        lines += [f"| {' | '.join(_cells(row))} |" for row in network["rows"]]
    if "full_size" in record:
        count = next(iter(record["full_size"].values()))["num_images"][-1]
        titles = ("CPU s a photo more", f"CPU s, {count} photos", f"MiB, {count} photos")
        lines += ["", f"| full-size Inception-v4 | {' | '.join(titles)} |", "|---|---:|---:|---:|"]
        lines += [
            f"| {one['says']} | {one['cpu_s_per_image']:.2f} | {one['cpu_s'][-1]:.0f} "
            f"| {one['peak_mib'][-1]:.0f} |"
            for one in record["full_size"].values()
        ]
    return "\n".join(lines) + "\n"


def _title(network: dict[str, Any]) -> str:
    return f"{network['model']}, {network['size'][0]}"


def _accuracy(found: dict[str, Any]) -> list[str]:
    return [f"{100 * found['top1']['value']:.1f}", f"{100 * found['balanced_accuracy']:.1f}"]


def _cells(row: dict[str, Any]) -> list[str]:
    written, plan, made = row["written"], row.get("rtx"), row["calibration"]
    is_accepted = bool(plan) and plan["is_accepted"]
    drop, timed = written["drop_pp"], row.get("latency")
    ratios = [timed.get(key) if timed else None for key in ("ours_over_it", "for_cpus_over_it")]
    return [
        "",
        f"**{row['says']}**" if row["name"] == "ours" else row["says"],
        *_accuracy(written),
        f"{drop['value']:.2f} (at most {drop['upper']:.2f})",
        f"{100 * written['agreement']['value']:.1f}",
        f"{written['sqnr_db']:.1f}",
        f"{row['executed']['sqnr_db']:.1f}" if "executed" in row else "-",
        f"{timed['p50_ms']:.1f}" if timed else "-",
        *(
            f"{one['value']:.2f} ({one['lower']:.2f} to {one['upper']:.2f})" if one else "-"
            for one in ratios
        ),
        ("yes" if is_accepted else "refused") if plan else "-",
        f"{plan['int8_weight_bytes'] / 1e3:.0f}" if is_accepted else "-",
        str(plan["num_kernels"]) if is_accepted else "-",
        f"{made['cpu_s']:.0f}",
        f"{made['peak_mib']:.0f}",
    ]
