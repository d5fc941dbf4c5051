"""The command ``compare``: two engines in one sitting, one against itself, or against a record."""

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
from edge_inception.validate import accuracy, comparable
from edge_inception.validate.gate import judge
from edge_inception.validate.report_record import Status

_SCORE_BATCH = 16
_SHA256, _HASH_DIGITS = re.compile("[0-9a-f]{64}"), 12
_OF_STATUS = {
    Status.PASSED: Verdict.PASS,
    Status.FAILED: Verdict.FAIL,
    Status.INCONCLUSIVE: Verdict.INCONCLUSIVE,
}
_ORDER = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How engines are compared.

    Attributes:
        protocol: Of every run.
        gate: Limit and number of pairs.
        image_set: Photos to feed; None feeds noise.
        folder: For the preprocessed images.
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
        """Record of B against A, with ``accuracy`` where labelled images are given.

        An ``EngineUnderTest`` instead of a file times a session that its ``contender`` opens.

        Raises:
            InputError: An engine cannot be used, or the two do not answer in the same classes.
            BackendMissing: A library cannot execute here.
            Inconclusive: A process died or hung.
        """
        a, b = self._arm(first), self._arm(second)
        judged = None
        if labelled:
            paths = a.engine.path, b.engine.path
            judged = accuracy_of(*paths, labelled, max_drop_pp=max_drop_pp)
        result, runs = regression.compare(
            a.contender, b.contender, self.folder, self.protocol, self.gate, progress=progress
        )
        record = bench.record("ab", {BASELINE: a, CANDIDATE: b}, runs, self.protocol)
        return replace(record, result=regression.result_record(result), accuracy=judged)

    def noise(self, engine: Path | EngineUnderTest, *, progress: Progress) -> BenchRecord:
        """Record of an engine against itself: what this machine's noise alone shows.

        ``result`` has the spread of the pairs and the number of pairs at which a true slow-down of
        limit + 2 % fails in 9 of 10 sessions.
        """
        arm = self._arm(engine)
        result, runs = regression.compare(
            arm.contender, arm.contender, self.folder, self.protocol, self.gate, progress=progress
        )
        logs = _logs(runs)
        spread = float(np.std(logs, ddof=1))
        true_change = self.gate.delta + 0.02
        needed = regression.pairs_needed(logs, self.gate, true_change=true_change)
        reason = (
            f"pairs spread by {100 * spread:.1f} %; to see "
            f"{100 * true_change:+.0f} % nine times in ten use --pairs {needed}"
        )
        judged = regression.result_record(result)
        told = replace(
            judged,
            reasons=(reason,),
            sentence=f"{judged.sentence}; {reason}",
            spread=spread,
            pairs_needed=needed,
        )
        record = bench.record("aa", {BASELINE: arm, CANDIDATE: arm}, runs, self.protocol)
        return replace(record, result=told)

    def baseline(self, engine: Path | EngineUnderTest, *, progress: Progress) -> BenchRecord:
        """Record of as many runs of an engine as there are pairs, to judge others against."""
        arm = self._arm(engine)
        runs = self._alone(BASELINE, arm, progress)
        reason = f"{len(runs)} processes recorded, nothing judged"
        pending = _unmeasured(Verdict.PASS, reason, self.gate)
        record = bench.record("aa", {BASELINE: arm}, runs, self.protocol)
        return replace(record, result=regression.result_record(pending))

    def fingerprint(self, engine: Path | EngineUnderTest) -> str:
        """Of this machine, this protocol and the library of an engine: a folder's name."""
        arm = self._arm(engine)
        return bench.record("aa", {BASELINE: arm}, (), self.protocol).fingerprint

    def _alone(self, name: str, arm: EngineUnderTest, progress: Progress) -> list[bench.Run]:
        runs: list[bench.Run] = []
        for index in range(self.gate.pairs):
            runs += bench.run_together(
                {name: arm.contender}, self.folder, self.protocol, pair=index
            )
            progress(index + 1, self.gate.pairs)
        return runs

    def against(
        self, engine: Path | EngineUnderTest, stored: Path, *, trusted: bool, progress: Progress
    ) -> BenchRecord:
        """Record of an engine today against a record of another day.

        It only warns: unless ``trusted``, a ``fail`` is turned into ``inconclusive``. Where the
        machine or the protocol differ the verdict is ``invalid`` and names what differs.

        Raises:
            InputError: The file is no record of ``bench`` or ``compare``.
        """
        old = read_record(stored)
        arm = self._arm(engine)
        runs = self._alone(CANDIDATE, arm, progress)
        now = bench.record("ab", {CANDIDATE: arm}, runs, self.protocol)
        result = _stored_result(old, now, self.gate, trusted=trusted)
        return replace(
            now,
            engines={BASELINE: replace(old.engine, path=str(stored)), **now.engines},
            runs=old.runs_of(BASELINE) + now.runs,
            against=Against(file=str(stored), created_utc=old.created_utc),
            result=regression.result_record(result),
        )

    def _arm(self, engine: Path | EngineUnderTest) -> EngineUnderTest:
        if isinstance(engine, EngineUnderTest):
            return engine
        return prepare_engine(engine, self.protocol.batch, self.image_set, self.folder)


def _logs(runs: Sequence[bench.Run]) -> list[float]:
    a, b = ([run for run in runs if run.arm == arm] for arm in (BASELINE, CANDIDATE))
    return [regression.log_ratio(*pair) for pair in zip(a, b, strict=True)]


def _stored_result(old: BenchRecord, new: BenchRecord, gate: Gate, *, trusted: bool) -> Result:
    before = [run.median for run in old.runs_of(BASELINE)]
    now = [run.median for run in new.runs]
    if differing := differences(old, new):
        return _unmeasured(Verdict.INVALID, f"not the same {', '.join(differing)}", gate)
    if min(len(before), len(now)) < 2:  # noqa: PLR2004 -- a variance
        few = f"the record has {len(before)} runs of A, wanted 2 or more"
        return _unmeasured(Verdict.INVALID, few, gate)
    found = regression.against(before, now, gate.delta)
    if found.verdict is not Verdict.FAIL or trusted:
        return found
    reason = "a record of another day only warns: compare both engines, or --trust-stored"
    return dataclasses.replace(found, verdict=Verdict.INCONCLUSIVE, reasons=(reason,))


def _unmeasured(verdict: Verdict, reason: str, gate: Gate) -> Result:
    """Without a ratio."""
    return Result(verdict=verdict, ratio=None, delta=gate.delta, num_pairs=0, reasons=(reason,))


_SAME_DEVICE = ("cpu", "architecture", "num_cores", "affinity", "governor", "power_mode", "model")
_SAME_PROTOCOL = ("threads", "batch", "streams", "runner", "metric", "input_sha256")


def differences(old: BenchRecord, new: BenchRecord) -> list[str]:
    """What keeps two records from being compared: names with both values."""
    parts = ((old.device, new.device, _SAME_DEVICE), (old.protocol, new.protocol, _SAME_PROTOCOL))
    found = []
    for then, now, names in parts:
        for name in names:
            before, after = (_recorded(part, name) for part in (then, now))
            if before != after:
                found.append(f"{name} ({_seen(before)} then, {_seen(after)} now)")
    return found


def _recorded(part: Record, name: str) -> Any:
    """A value as JSON has it; None where it was not recorded."""
    value = getattr(part, name)
    return None if value is UNSET else records.plain(value)


def _seen(value: Any) -> str:
    """A value of a record in a sentence: a hash is short, and what was not recorded is not."""
    if value is None:
        return "not recorded"
    text = str(list(value) if isinstance(value, tuple) else value)
    return text[:_HASH_DIGITS] if _SHA256.fullmatch(text) else text


def exit_code(record: BenchRecord) -> int:
    """Of the worse of latency and accuracy.

    Args:
        record: Of a comparison.
    """
    assert record.result is not None
    verdicts = {record.result.verdict}
    if record.accuracy:
        verdicts.add(record.accuracy.verdict)
    worst = next((one for one in _ORDER if one in verdicts), Verdict.PASS)
    return EXIT_CODES[worst]


def accuracy_of(
    first: Path, second: Path, labelled: ImageSet, *, max_drop_pp: float
) -> AccuracyRecord:
    """Top-1 of the second engine against the first on the same labelled images, paired.

    Raises:
        InputError: No labels, embeddings, or the two do not answer in the same classes.
    """
    if not labelled.is_labelled:
        raise InputError(
            f"{labelled.name} has no labels", hint="--validation takes class folders or a set file"
        )
    labels = np.array([item.label for item in labelled.items], np.int64)
    found = accuracy.compare(_answers(first, labelled), labels, _answers(second, labelled))
    verdict = judge(Gates(max_drop_pp=max_drop_pp), accuracy=found, speedup=None)
    assert found.labelled is not None
    drop = found.labelled.drop_pp
    return AccuracyRecord(
        verdict=_OF_STATUS[verdict.status],
        sentence=verdict.sentence,
        drop_pp=Drop(value=drop.value, lower=drop.lower, upper=drop.upper),
        num_images=found.num_images,
    )


def _answers(path: Path, labelled: ImageSet) -> NDArray[np.float32]:
    details = artifact.load(EngineFile, path).details
    how, head = details.preprocess, details.head
    if head.kind == "embedding":
        raise InputError(
            f"{path} gives embeddings, which have no top-1", hint="leave --validation out"
        )
    with inference.open_engine(path) as session:
        groups = images.batches(labelled.items, how, _SCORE_BATCH)
        found = [session.run(group.images) for group in groups]
    return comparable.as_logits(np.concatenate(found), head)
