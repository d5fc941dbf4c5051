"""Latency and accuracy regression tests for users' own suites: a pytest plug-in.

Three lines are a test::

    def test_no_slower(latency_gate):
        latency_gate("build/model.int8.cpu.blob", "released/model.int8.cpu.blob")

``latency_gate(candidate, baseline, ...)`` measures both side by side in fresh processes, as
``edge-inception compare`` does, and fails the test where the candidate is slower beyond doubt. With
no baseline engine the candidate is judged against the record of this very machine in the baseline
folder, which ``--update-baselines`` writes. ``accuracy_gate(candidate, baseline, images)`` judges
the paired top-1 drop. An undecided result skips the test with the reason: it is neither a pass nor
a failure; ``--gate-strict`` makes it a failure.

Both marks are set by using the fixtures: ``-m latency_gate`` selects such tests. Under pytest-xdist
nothing is measured in parallel: the gates refuse to run in a worker unless there is a single one.
"""

from __future__ import annotations

import json
import math
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
    """Options of the gates."""
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
    """The marks, and a place for the table."""
    for name, says in _MARKS.items():
        config.addinivalue_line("markers", f"{name}: {says}")
    config.stash[_ROWS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a gate carries its mark."""
    for item in items:
        for name in _MARKS:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line for every gate."""
    rows = config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section("edge-inception gates")
    width = max(len(test) for test, _, _ in rows)
    for test, verdict, sentence in rows:
        terminalreporter.write_line(f"{test:<{width}}  {verdict:<12}  {sentence}")


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> Iterator[Callable[..., dict[str, Any]]]:
    """Call it with engines; it fails, skips or returns the record of the comparison.

    ``latency_gate(candidate, baseline=None, *, max_regression=0.03, pairs=10, most_pairs=50,
    threads=0, batch=1, seconds=5.0, images=None)``: engine files, or an ``EngineUnderTest``
    for a session of your own; photos to feed, or noise.
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
            found: dict[str, Any] = json.loads(to_json(record))
            return found

        yield gate


@pytest.fixture
def accuracy_gate(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Call it with engines and labelled images: the paired top-1 drop is judged.

    ``accuracy_gate(candidate, baseline, images, *, max_drop=1.0)``: percentage points.
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
        found: dict[str, Any] = records.plain(judged)
        return found

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

    usual = Gate()
    pairs = choices.pop("pairs", usual.pairs)
    images = choices.pop("images", None)
    gate = Gate(
        delta=choices.pop("max_regression", usual.delta),
        pairs=pairs,
        most_pairs=choices.pop("most_pairs", max(usual.most_pairs, pairs)),
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
    """The candidate against this machine's record; without one the test is skipped."""
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
    """A test's id as a file's name."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in nodeid)


def _engine(engine: str | Path | EngineUnderTest) -> Path | EngineUnderTest:
    if not isinstance(engine, (str, Path)):
        return engine
    found = Path(engine)
    if not found.is_file():
        pytest.fail(f"no engine {found}; build it first: edge-inception build", pytrace=False)
    return found


def _conclude(request: pytest.FixtureRequest, verdict: Verdict, sentence: str) -> None:
    """Keep the line for the table, then fail or skip; a pass goes on."""
    from edge_inception.latency.record import Verdict  # noqa: PLC0415 -- pytest starts without it

    request.config.stash[_ROWS].append((request.node.nodeid, verdict.value, sentence))
    if verdict is Verdict.FAIL:
        pytest.fail(sentence, pytrace=False)
    if verdict in {Verdict.INCONCLUSIVE, Verdict.INVALID}:
        told = f"{verdict.value}: {sentence}"
        if request.config.getoption("--gate-strict"):
            pytest.fail(told, pytrace=False)
        pytest.skip(told)


def _silent(done: int, total: int) -> None:
    """A test prints no progress."""
