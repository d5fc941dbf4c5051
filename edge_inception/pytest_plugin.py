"""A pytest plug-in with latency and accuracy regression tests for users' own suites.

A test has two lines::

    def test_no_slower(latency_gate):
        latency_gate("build/model.int8.cpu.blob", "released/model.int8.cpu.blob")

``latency_gate(candidate, baseline, ...)`` measures both engines side by side in fresh processes, as
``edge-inception compare`` does, and fails the test if the whole interval of the slow-down is above
the limit. Without a baseline engine, the gate judges the candidate against this machine's record in
the baseline folder, which ``--update-baselines`` writes. ``accuracy_gate(candidate, baseline,
images)`` judges the paired top-1 drop. An undecided result, neither a pass nor a failure, skips the
test and says why; with ``--gate-strict`` the test fails.

A test that uses one of these fixtures gets the mark of the same name, so that ``-m latency_gate``
selects it. The latency gate fails under pytest-xdist with several workers, since they would disturb
each other's latency.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edge_inception.latency.contender import EngineUnderTest
    from edge_inception.latency.record import BenchRecord, Verdict
    from edge_inception.validate.comparison import Comparison

BASELINES = "latency_baselines"
_ROWS = pytest.StashKey[list[tuple[str, str, str]]]()
_MARKS = {
    "latency_gate": "measures latency side by side; slow, and not in parallel",
    "accuracy_gate": "measures accuracy of two engines on the same images",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the gates."""
    group = parser.getgroup("edge-inception", "latency and accuracy gates")
    group.addoption(
        "--update-baselines",
        action="store_true",
        help="measure, and write this machine's records instead of judging against them",
    )
    group.addoption(
        "--baselines",
        default=BASELINES,
        metavar="DIR",
        help="folder of the records, one for each machine (default: latency_baselines)",
    )
    group.addoption(
        "--gate-strict", action="store_true", help="fail where a gate cannot be decided"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, and prepare the table of results."""
    for name, description in _MARKS.items():
        config.addinivalue_line("markers", f"{name}: {description}")
    config.stash[_ROWS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a gate."""
    for item in items:
        for name in _MARKS:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table of results, one line for each use of a gate."""
    rows = config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section("edge-inception gates")
    width = max(len(test) for test, _, _ in rows)
    for test, verdict, sentence in rows:
        terminalreporter.write_line(f"{test:<{width}}  {verdict:<12}  {sentence}")


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> Iterator[Callable[..., dict[str, Any]]]:
    """Function that compares two engines; it returns the record, or fails or skips the test.

    ``latency_gate(candidate, baseline=None, *, max_regression=0.03, pairs=10, most_pairs=50,
    threads=0, batch=1, seconds=5.0, warmup_s=2.0, images=None)``: an engine is a file, or an
    ``EngineUnderTest`` for a session of your own. ``max_regression`` is a share (0.03 is 3 %),
    ``pairs`` the number of pairs of fresh processes, ``threads`` 0 all cores that this process may
    use, ``seconds`` the timed part of a process. ``images`` is a set of photos to feed; None feeds
    noise.
    """
    from edge_inception.latency.record import to_json  # noqa: PLC0415 -- pytest starts without it

    with _folder(request) as folder:

        def gate(
            candidate: str | Path | EngineUnderTest,
            baseline: str | Path | EngineUnderTest | None = None,
            **choices: Any,
        ) -> dict[str, Any]:
            session = _comparison(folder, choices)
            if baseline is None:
                record = _against_stored(request, session, _engine(candidate))
            else:
                record = session.pairs(
                    _engine(baseline),
                    _engine(candidate),
                    labelled=None,
                    max_drop_pp=math.inf,
                    progress=_silent,
                )
            assert record.result is not None
            _conclude(request, record.result.verdict, record.result.sentence)
            plain: dict[str, Any] = json.loads(to_json(record))
            return plain

        yield gate


@pytest.fixture
def accuracy_gate(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Function that judges the paired top-1 drop of two engines on labelled images.

    ``accuracy_gate(candidate, baseline, images, *, max_drop=1.0)``; ``max_drop`` is in percentage
    points.
    """

    def gate(
        candidate: str | Path, baseline: str | Path, images: str | Path, *, max_drop: float = 1.0
    ) -> dict[str, Any]:
        from edge_inception import records  # noqa: PLC0415 -- pytest starts without it
        from edge_inception.data import imageset  # noqa: PLC0415
        from edge_inception.validate import comparison  # noqa: PLC0415

        labelled = imageset.open_set(Path(images))
        judged = comparison.accuracy_of(
            Path(baseline), Path(candidate), labelled, max_drop_pp=max_drop
        )
        _conclude(request, judged.verdict, judged.sentence)
        plain: dict[str, Any] = records.plain(judged)
        return plain

    return gate


def _folder(request: pytest.FixtureRequest) -> tempfile.TemporaryDirectory[str]:
    worker = getattr(request.config, "workerinput", {})
    if int(worker.get("workercount", 1)) > 1:
        pytest.fail(
            f"latency cannot be measured by {worker['workercount']} workers at once: run these "
            "tests apart, pytest -p no:xdist -m latency_gate, and the others with "
            "-m 'not latency_gate'",
            pytrace=False,
        )
    return tempfile.TemporaryDirectory(prefix="edge-inception-")


def _comparison(folder: str, choices: dict[str, Any]) -> Comparison:
    from edge_inception.data import imageset  # noqa: PLC0415 -- pytest starts without it
    from edge_inception.latency.bench import Protocol  # noqa: PLC0415
    from edge_inception.latency.regression import Gate  # noqa: PLC0415
    from edge_inception.validate.comparison import Comparison  # noqa: PLC0415

    default = Gate()
    pairs = choices.pop("pairs", default.pairs)
    images = choices.pop("images", None)
    gate = Gate(
        delta=choices.pop("max_regression", default.delta),
        pairs=pairs,
        max_pairs=choices.pop("most_pairs", max(default.max_pairs, pairs)),
    )
    protocol = Protocol(
        stable=None,
        threads=choices.pop("threads", 0),
        batch=choices.pop("batch", 1),
        seconds=choices.pop("seconds", 5.0),
        warmup_s=choices.pop("warmup_s", 2.0),
    )
    if choices:
        raise TypeError(f"latency_gate has no choice {min(choices)!r}")
    image_set = imageset.open_set(Path(images)) if images else None
    return Comparison(protocol=protocol, gate=gate, image_set=image_set, folder=Path(folder))


def _against_stored(
    request: pytest.FixtureRequest, session: Comparison, engine: Path | EngineUnderTest
) -> BenchRecord:
    """The candidate's record against this machine's; the test is skipped if there is none."""
    from edge_inception.artifact import replace_file  # noqa: PLC0415 -- pytest starts without it
    from edge_inception.latency.record import to_json  # noqa: PLC0415

    folder = Path(request.config.rootpath, request.config.getoption("--baselines"))
    path = folder / session.fingerprint(engine) / f"{_file_name(request.node.nodeid)}.json"
    if request.config.getoption("--update-baselines"):
        record = session.baseline(engine, progress=_silent)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, to_json(record))
        return record
    if not path.exists():
        pytest.skip(f"no record of this machine, {path}: run pytest --update-baselines once")
    return session.against(engine, path, trusted=True, progress=_silent)


def _file_name(nodeid: str) -> str:
    """A readable file name for a test's id; its digest keeps names of different tests apart."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", nodeid)[-200:]
    return f"{readable}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"


def _engine(engine: str | Path | EngineUnderTest) -> Path | EngineUnderTest:
    if not isinstance(engine, (str, Path)):
        return engine
    path = Path(engine)
    if not path.is_file():
        pytest.fail(f"no engine {path}; build it first: edge-inception build", pytrace=False)
    return path


def _conclude(request: pytest.FixtureRequest, verdict: Verdict, sentence: str) -> None:
    """Add a line to the table, then fail or skip the test unless the verdict is a pass."""
    from edge_inception.latency.record import Verdict  # noqa: PLC0415 -- pytest starts without it

    request.config.stash[_ROWS].append((request.node.nodeid, verdict.value, sentence))
    if verdict is Verdict.FAIL:
        pytest.fail(sentence, pytrace=False)
    if verdict in {Verdict.INCONCLUSIVE, Verdict.INVALID}:
        reason = f"{verdict.value}: {sentence}"
        if request.config.getoption("--gate-strict"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _silent(done: int, total: int) -> None:
    """Ignore progress; a test prints none."""
