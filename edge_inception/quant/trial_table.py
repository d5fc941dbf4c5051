"""The trial of int8 graphs as people read it: a table, and the flags that repeat the choice."""

from __future__ import annotations

from edge_inception.sidecar import TrialDetails, TriedGraph


def describe_tried_graphs(details: TrialDetails) -> list[str]:
    """Lines for people: every graph that was tried, the chosen one marked; none without a trial."""
    if details.chosen is None:
        return []
    lines = [
        f"int8 graphs tried on calibration images, {details.num_rounded} weights rounded by second",
        "order; SQNR of the logits in dB, mean and median:",
        "    mean   med  photos  float MACs  calibrator         placement      also",
    ]
    lines += [_row(graph, is_chosen=graph == details.chosen) for graph in details.tried]
    lines += [f"to repeat the choice: {repeat_flags(details.chosen)}"]
    return lines


def repeat_flags(chosen: TriedGraph) -> str:
    """Flags of ``build`` that ask for this graph without a trial of others."""
    folds = "--fold-zero-points" if chosen.fold_zero_points else "--no-fold-zero-points"
    corrects = "--bias-correction" if chosen.bias_correction else "--no-bias-correction"
    return (
        f"--calibrator {chosen.calibrator} --typing {chosen.typing} "
        f"--placement {chosen.placement} {folds} {corrects}"
    )


def _row(graph: TriedGraph, *, is_chosen: bool) -> str:
    also = ["zero points folded"] if graph.fold_zero_points else []
    also += ["biases corrected"] if graph.bias_correction else []
    return (
        f"  {'>' if is_chosen else ' '} {graph.sqnr_db:4.1f}  {graph.median_sqnr_db:4.1f}  "
        f"{graph.num_images:6}  {100 * graph.float_share:8.1f} %  {graph.calibrator:17}  "
        f"{graph.placement:13}  {', '.join(also)}"
    )
