"""The command ``compare``: two engines in one sitting, one against itself, or against a record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception import artifact, inference
from edge_inception.artifact import EngineFile
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.latency import bench, regression
from edge_inception.latency.contender import EngineUnderTest, prepare_engine
from edge_inception.latency.record import read_record
from edge_inception.latency.regression import EXIT_CODES, Gate, Result, Verdict
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
    ) -> dict[str, Any]:
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
        record = self._record("ab", {"A": a, "B": b}, runs, result)
        return {**record, "accuracy": judged} if judged else record

    def noise(self, engine: Path | EngineUnderTest, *, progress: Progress) -> dict[str, Any]:
        """Record of an engine against itself: what this machine's noise alone shows.

        ``result`` has the spread of the pairs and the number of pairs at which a true slow-down of
        limit + 2 % fails in 9 of 10 sessions.
        """
        arm = self._arm(engine)
        result, runs = regression.compare(
            arm.contender, arm.contender, self.folder, self.protocol, self.gate, progress=progress
        )
        logs = _logs(runs)
        true_change = self.gate.delta + 0.02
        needed = regression.pairs_needed(logs, self.gate, true_change=true_change)
        record = self._record("aa", {"A": arm, "B": arm}, runs, result)
        record["result"] |= {
            "spread": float(np.std(logs, ddof=1)),
            "pairs_needed": needed,
            "reasons": [
                (
                    f"pairs spread by {100 * float(np.std(logs, ddof=1)):.1f} %; to see "
                    f"{100 * true_change:+.0f} % nine times in ten use --pairs {needed}"
                )
            ],
        }
        record["result"]["sentence"] += f"; {record['result']['reasons'][0]}"
        return record

    def baseline(self, engine: Path | EngineUnderTest, *, progress: Progress) -> dict[str, Any]:
        """Record of as many runs of an engine as there are pairs, to judge others against."""
        arm = self._arm(engine)
        runs = self._alone("A", arm, progress)
        record = bench.record("aa", {"A": arm.facts}, runs, self.protocol, input_facts=arm.feed)
        told = f"{len(runs)} processes recorded, nothing judged"
        pending = Result(
            verdict=Verdict.PASS, ratio=None, delta=self.gate.delta, num_pairs=0, reasons=(told,)
        )
        record["result"] = regression.result_record(pending)
        return record

    def fingerprint(self, engine: Path | EngineUnderTest) -> str:
        """Of this machine, this protocol and the library of an engine: a folder's name."""
        arm = self._arm(engine)
        record = bench.record("aa", {"A": arm.facts}, (), self.protocol, input_facts=arm.feed)
        return str(record["fingerprint"])

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
    ) -> dict[str, Any]:
        """Record of an engine today against a record of another day.

        It only warns: unless ``trusted``, a ``fail`` is turned into ``inconclusive``. Where the
        machine or the protocol differ the verdict is ``invalid`` and names what differs.

        Raises:
            InputError: The file is no record of ``bench`` or ``compare``.
        """
        old = read_record(stored)
        arm = self._arm(engine)
        runs = self._alone("B", arm, progress)
        record = bench.record("ab", {"B": arm.facts}, runs, self.protocol, input_facts=arm.feed)
        record["against"] = {"file": str(stored), "created_utc": old["created_utc"]}
        before = [run["median"] for run in old["runs"] if run["arm"] == "A"]
        now = [run["median"] for run in record["runs"]]
        record["engines"] = {"A": {**old["engines"]["A"], "path": str(stored)}, **record["engines"]}
        record["runs"] = [run for run in old["runs"] if run["arm"] == "A"] + record["runs"]
        result = _stored_result(old, record, (before, now), self.gate, trusted=trusted)
        record["result"] = regression.result_record(result)
        return record

    def _arm(self, engine: Path | EngineUnderTest) -> EngineUnderTest:
        if isinstance(engine, EngineUnderTest):
            return engine
        return prepare_engine(engine, self.protocol.batch, self.image_set, self.folder)

    def _record(
        self,
        kind: str,
        arms: Mapping[str, EngineUnderTest],
        runs: Sequence[bench.Run],
        result: Result,
    ) -> dict[str, Any]:
        facts = {name: arm.facts for name, arm in arms.items()}
        feed = arms["A"].feed
        record = bench.record(kind, facts, runs, self.protocol, input_facts=feed)
        record["result"] = regression.result_record(result)
        return record


def _logs(runs: Sequence[bench.Run]) -> list[float]:
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in ("A", "B")}
    return [regression.log_ratio(a, b) for a, b in zip(*by_arm.values(), strict=True)]


def _stored_result(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    medians: tuple[Sequence[float], Sequence[float]],
    gate: Gate,
    *,
    trusted: bool,
) -> Result:
    reasons: tuple[str, ...] = ()
    differing = differences(old, new)
    if differing or min(map(len, medians)) < 2:  # noqa: PLR2004 -- a variance
        few = f"the record has {len(medians[0])} runs of A, wanted 2 or more"
        told = f"not the same {', '.join(differing)}" if differing else few
        return Result(
            verdict=Verdict.INVALID, ratio=None, delta=gate.delta, num_pairs=0, reasons=(told,)
        )
    found = regression.against(*medians, gate.delta)
    verdict = found.verdict
    if verdict is Verdict.FAIL and not trusted:
        verdict = Verdict.INCONCLUSIVE
        reasons = ("a record of another day only warns: compare both engines, or --trust-stored",)
    return Result(
        verdict=verdict,
        ratio=found.ratio,
        delta=gate.delta,
        num_pairs=found.num_pairs,
        reasons=reasons,
    )


_SAME_DEVICE = ("cpu", "architecture", "num_cores", "affinity", "governor", "power_mode", "model")
_SAME_PROTOCOL = ("threads", "batch", "streams", "runner", "metric", "input_sha256")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps two records from being compared: names with both values."""
    found = []
    for part, names in (("device", _SAME_DEVICE), ("protocol", _SAME_PROTOCOL)):
        for name in names:
            before, after = old[part].get(name), new[part].get(name)
            if before != after:
                found.append(f"{name} ({_seen(before)} then, {_seen(after)} now)")
    return found


def _seen(value: Any) -> str:
    """A value of a record in a sentence: a hash is short, and what was not recorded is not."""
    if value is None:
        return "not recorded"
    text = str(value)
    return text[:_HASH_DIGITS] if _SHA256.fullmatch(text) else text


def exit_code(record: Mapping[str, Any]) -> int:
    """Of the worse of latency and accuracy."""
    verdicts = {Verdict(record["result"]["verdict"])}
    if record.get("accuracy"):
        verdicts.add(Verdict(record["accuracy"]["verdict"]))
    worst = next((one for one in _ORDER if one in verdicts), Verdict.PASS)
    return EXIT_CODES[worst]


def accuracy_of(
    first: Path, second: Path, labelled: ImageSet, *, max_drop_pp: float
) -> dict[str, Any]:
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
    return {
        "verdict": _OF_STATUS[verdict.status].value,
        "sentence": verdict.sentence,
        "drop_pp": {"value": drop.value, "lower": drop.lower, "upper": drop.upper},
        "num_images": found.num_images,
    }


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
