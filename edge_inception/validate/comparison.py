"""Comparisons of two engines, of an engine with itself, and of an engine with a stored record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_inception import artifact, inference, records
from edge_inception.artifact import EngineFile
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.latency import bench, regression
from edge_inception.latency.contender import EngineUnderTest, prepare_engine
from edge_inception.latency.record import (
    BASELINE,
    CANDIDATE,
    AccuracyRecord,
    Against,
    BenchRecord,
    Drop,
    Verdict,
    read_record,
)
from edge_inception.latency.regression import EXIT_CODES, Gate, Result
from edge_inception.records import Record
from edge_inception.spec import Gates, Progress
from edge_inception.validate import accuracy
from edge_inception.validate.gate import judge
from edge_inception.validate.report_record import Status

_SCORE_BATCH = 16
_SHA256, _HASH_DIGITS = re.compile("[0-9a-f]{64}"), 12
_VERDICT_OF_STATUS = {
    Status.PASSED: Verdict.PASS,
    Status.FAILED: Verdict.FAIL,
    Status.INCONCLUSIVE: Verdict.INCONCLUSIVE,
}
_WORST_FIRST = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Settings of a comparison; each kind of comparison is a method.

    An engine is given as its file, or as an ``EngineUnderTest`` that was prepared before.

    Attributes:
        protocol: Protocol of every run.
        gate: Limit of the slow-down, and numbers of pairs.
        image_set: Photos to feed to the engines; None feeds random pixels.
        folder: Folder for the preprocessed images.
    """

    protocol: bench.Protocol
    gate: Gate
    image_set: ImageSet | None
    folder: Path

    def pairs(
        self,
        first: Path | EngineUnderTest,
        second: Path | EngineUnderTest,
        *,
        labelled: ImageSet | None,
        max_drop_pp: float,
        progress: Progress,
    ) -> BenchRecord:
        """Record of the second engine, B, against the first, A.

        With ``labelled`` images the record also has ``accuracy``, judged by ``max_drop_pp``.

        Raises:
            InputError: An engine cannot be used, or the two have different classes.
            BackendMissing: A library cannot execute here.
            Inconclusive: A process died or hung.
        """
        a, b = self._prepared(first), self._prepared(second)
        judged = None
        if labelled:
            paths = a.engine.path, b.engine.path
            judged = accuracy_of(*paths, labelled, max_drop_pp=max_drop_pp)
        result, runs = regression.compare(
            a.contender, b.contender, self.folder, self.protocol, self.gate, progress=progress
        )
        record = bench.record("ab", {BASELINE: a, CANDIDATE: b}, runs, self.protocol)
        return replace(record, result=regression.result_record(result), accuracy=judged)

    def against_itself(self, engine: Path | EngineUnderTest, *, progress: Progress) -> BenchRecord:
        """Record of an engine against itself, which shows the noise of this machine.

        ``result`` has the spread of the pairs, and how many pairs the gate needs to fail 9 of 10
        engines whose true slow-down is 2 percentage points above the limit.
        """
        a = self._prepared(engine)
        result, runs = regression.compare(
            a.contender, a.contender, self.folder, self.protocol, self.gate, progress=progress
        )
        log_ratios = _log_ratios(runs)
        spread = float(np.std(log_ratios, ddof=1))
        true_change = self.gate.delta + 0.02
        needed = regression.pairs_needed(log_ratios, self.gate, true_change=true_change)
        reason = (
            f"pairs spread by {100 * spread:.1f} %; to detect "
            f"{100 * true_change:+.0f} % nine times in ten use --pairs {needed}"
        )
        record = bench.record("aa", {BASELINE: a, CANDIDATE: a}, runs, self.protocol)
        judged = regression.result_record(result)
        judged = replace(
            judged,
            reasons=(reason,),
            sentence=f"{judged.sentence}; {reason}",
            spread=spread,
            pairs_needed=needed,
        )
        return replace(record, result=judged)

    def baseline(self, engine: Path | EngineUnderTest, *, progress: Progress) -> BenchRecord:
        """Record of an engine alone, to compare with later; it has ``gate.pairs`` runs."""
        a = self._prepared(engine)
        runs = self._runs_alone(BASELINE, a, progress)
        reason = f"{len(runs)} processes recorded, nothing judged"
        not_judged = _result_without_ratio(Verdict.PASS, reason, self.gate)
        record = bench.record("aa", {BASELINE: a}, runs, self.protocol)
        return replace(record, result=regression.result_record(not_judged))

    def fingerprint(self, engine: Path | EngineUnderTest) -> str:
        """Hash of this machine, the protocol and the engine's library, to name a folder by."""
        a = self._prepared(engine)
        return bench.record("aa", {BASELINE: a}, (), self.protocol).fingerprint

    def _runs_alone(
        self, side: str, engine: EngineUnderTest, progress: Progress
    ) -> list[bench.Run]:
        runs: list[bench.Run] = []
        for index in range(self.gate.pairs):
            runs += bench.run_together(
                {side: engine.contender}, self.folder, self.protocol, pair=index
            )
            progress(index + 1, self.gate.pairs)
        return runs

    def against(
        self, engine: Path | EngineUnderTest, stored: Path, *, trusted: bool, progress: Progress
    ) -> BenchRecord:
        """Record of an engine, run now as side B, against side A of the record in ``stored``.

        Unless ``trusted``, the verdict ``fail`` becomes ``inconclusive``, so that the comparison
        only warns. If machine or protocol differ, the verdict is ``invalid`` and its reason names
        the differences.

        Raises:
            InputError: The file is not a record of ``bench`` or ``compare``.
        """
        old = read_record(stored)
        b = self._prepared(engine)
        runs = self._runs_alone(CANDIDATE, b, progress)
        now = bench.record("ab", {CANDIDATE: b}, runs, self.protocol)
        result = _compare_with_stored(old, now, self.gate, trusted=trusted)
        return replace(
            now,
            engines={BASELINE: replace(old.engine, path=str(stored)), **now.engines},
            runs=old.runs_of(BASELINE) + now.runs,
            against=Against(file=str(stored), created_utc=old.created_utc),
            result=regression.result_record(result),
        )

    def _prepared(self, engine: Path | EngineUnderTest) -> EngineUnderTest:
        if isinstance(engine, EngineUnderTest):
            return engine
        return prepare_engine(engine, self.protocol.batch, self.image_set, self.folder)


def _log_ratios(runs: Sequence[bench.Run]) -> list[float]:
    a, b = ([run for run in runs if run.side == side] for side in (BASELINE, CANDIDATE))
    return [regression.log_ratio(x.medians, y.medians) for x, y in zip(a, b, strict=True)]


def _compare_with_stored(
    old: BenchRecord, new: BenchRecord, gate: Gate, *, trusted: bool
) -> Result:
    before = [run.median for run in old.runs_of(BASELINE)]
    now = [run.median for run in new.runs]
    if differing := differences(old, new):
        return _result_without_ratio(Verdict.INVALID, f"not the same {', '.join(differing)}", gate)
    if min(len(before), len(now)) < 2:  # noqa: PLR2004 -- a variance
        too_few = f"{len(before)} runs of A and {len(now)} of B, wanted 2 or more of each"
        return _result_without_ratio(Verdict.INVALID, too_few, gate)
    result = regression.compare_with_stored(before, now, gate.delta)
    if result.verdict is not Verdict.FAIL or trusted:
        return result
    reason = (
        "a slow-down against a record of another day only warns: compare both engines now, or "
        "pass --trust-stored"
    )
    return dataclasses.replace(result, verdict=Verdict.INCONCLUSIVE, reasons=(reason,))


def _result_without_ratio(verdict: Verdict, reason: str, gate: Gate) -> Result:
    """A result that has no ratio, with its reason."""
    return Result(verdict=verdict, ratio=None, delta=gate.delta, num_pairs=0, reasons=(reason,))


_SAME_DEVICE = ("cpu", "architecture", "num_cores", "affinity", "governor", "power_mode", "model")
_SAME_PROTOCOL = ("threads", "batch", "streams", "runner", "metric", "input_sha256")


def differences(old: BenchRecord, new: BenchRecord) -> list[str]:
    """Names and values of facts that differ between two records and so forbid a comparison."""
    parts = ((old.device, new.device, _SAME_DEVICE), (old.protocol, new.protocol, _SAME_PROTOCOL))
    differing = []
    for then, now, names in parts:
        for name in names:
            before, after = (_recorded(part, name) for part in (then, now))
            if before != after:
                differing.append(f"{name} ({_describe(before)} then, {_describe(after)} now)")
    return differing


def _recorded(part: Record, name: str) -> Any:
    """A field's value as in JSON; None if it was not recorded."""
    value = getattr(part, name)
    return None if value is UNSET else records.plain(value)


def _describe(value: Any) -> str:
    """A field's value in words: a hash is shortened, None becomes "not recorded"."""
    if value is None:
        return "not recorded"
    text = str(list(value) if isinstance(value, tuple) else value)
    return text[:_HASH_DIGITS] if _SHA256.fullmatch(text) else text


def exit_code(record: BenchRecord) -> int:
    """Exit code for the worse of the record's verdicts on latency and, if present, accuracy."""
    assert record.result is not None
    verdicts = {record.result.verdict}
    if record.accuracy:
        verdicts.add(record.accuracy.verdict)
    worst = next((one for one in _WORST_FIRST if one in verdicts), Verdict.PASS)
    return EXIT_CODES[worst]


def accuracy_of(
    first: Path, second: Path, labelled: ImageSet, *, max_drop_pp: float
) -> AccuracyRecord:
    """Verdict on the top-1 drop from the first engine to the second, on the same images.

    Raises:
        InputError: The images have no labels, an engine gives embeddings, or the engines have
            different classes.
    """
    if not labelled.is_labelled:
        raise InputError(
            f"{labelled.name} has no labels", hint="--validation takes class folders or a set file"
        )
    labels = np.array([item.label for item in labelled.items], np.int64)
    compared = accuracy.compare(_logits(first, labelled), labels, _logits(second, labelled))
    verdict = judge(Gates(max_drop_pp=max_drop_pp), accuracy=compared, speedup=None)
    assert compared.labelled is not None
    drop = compared.labelled.drop_pp
    return AccuracyRecord(
        verdict=_VERDICT_OF_STATUS[verdict.status],
        sentence=verdict.sentence,
        drop_pp=Drop(value=drop.value, lower=drop.lower, upper=drop.upper),
        num_images=compared.num_images,
    )


def _logits(path: Path, labelled: ImageSet) -> NDArray[np.float32]:
    details = artifact.load(EngineFile, path).details
    head = details.head
    if head.kind == "embedding":
        raise InputError(
            f"{path} gives embeddings, which have no top-1", hint="leave --validation out"
        )
    with inference.open_engine(path) as session:
        batches = images.batches(labelled.items, details.preprocess, _SCORE_BATCH)
        outputs = [session.run(batch.images) for batch in batches]
    return accuracy.as_logits(np.concatenate(outputs), head)
