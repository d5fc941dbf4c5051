"""Runner of stages, which runs a stage or reuses its artifact and tells the listener which."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edge_inception import stage
from edge_inception.artifact import Artifact
from edge_inception.pipeline.listener import Listener
from edge_inception.sidecar import Provenance
from edge_inception.spec import Progress

A = TypeVar("A", bound=Artifact)


class WouldRun(Exception):
    """Raised in a dry run, which runs nothing, at the first stage that would have to run."""


class Runner:
    """Runs stages or reuses their artifacts.

    ``written`` are the files made or reused so far; ``lines`` are those that a dry run prints.
    """

    def __init__(self, listener: Listener, *, force: bool, is_dry: bool = False) -> None:
        self.listener, self.is_dry = listener, is_dry
        self._force = force
        self.lines: list[str] = []
        self.written: list[Path] = []

    def run_or_reuse(
        self,
        label: str,
        kind: type[A],
        path: Path,
        expected: Provenance,
        run: Callable[[Progress], A],
    ) -> A:
        """The artifact at ``path`` if its provenance is ``expected``, else the result of ``run``.

        Raises:
            WouldRun: This is a dry run, and the stage has to run.
        """
        reused, reason = stage.reusable(kind, path, expected)
        if self._force:
            reused, reason = None, "forced"
        if self.is_dry and reused is None:
            self.lines.append(f"{label:<22} run: {reason}")
            raise WouldRun
        self.written.append(path)
        if reused is not None:
            self.lines.append(f"{label:<22} reuse {path}")
            self.listener.note(f"{label:<23}  reused")
            return reused
        if path.exists() and not self._force:
            self.listener.note(f"{label:<23}  again: {reason}")
        started = time.monotonic()
        with self.listener.working(label) as progress:
            artifact = run(progress)
        seconds = time.monotonic() - started
        self.listener.note(f"{label:<23}{seconds:6.1f} s  {summarize_counts(artifact.counts)}")
        self.listener.detail(f"  counted: {summarize_counts(artifact.counts, is_full=True)}")
        return artifact


# Templates for a stage's counts; the first is used whose names are all among the counts.
_SUMMARIES = (
    "{conv_quantized} of {conv_total} Conv, {gemm_quantized} of {gemm_total} Gemm in int8",
    "groups that stay float: {num_kept}, graphs scored: {num_scored}",
    "{num_nodes} nodes, were {num_nodes_before}",
    "{num_images} images, {num_tensors} tensors",
    "{num_from_cache} of {num_tensors} tensors found in the cache",
    "{num_engines} engines, {num_images} images",
    "{images} images",
    "{int8_layers} of {weighted_layers} layers with weights in int8",
    "{layers} layers",
    "{num_nodes} nodes",
    "{num_scaled} tensors with a scale, {num_unscaled} without",
)


def summarize_counts(counts: Mapping[str, Any], *, is_full: bool = False) -> str:
    """A stage's counts in a few words, or with ``is_full`` every name and count."""
    if is_full:
        return ", ".join(f"{name} {value}" for name, value in counts.items())
    for summary in _SUMMARIES:
        if counts.keys() >= set(re.findall(r"{(\w+)}", summary)):
            return summary.format_map(counts)
    return f"{sum(counts.values())} nodes" if counts else ""  # counts of export: nodes by operator
