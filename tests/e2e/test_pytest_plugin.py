from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHOICES = "seconds=0.3, warmup_s=0.05, threads=1, pairs=5, most_pairs=6"
PATIENT = CHOICES.replace("most_pairs=6", "most_pairs=30")  # goes on where others load the machine
_SLOWED = """
import dataclasses
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from edge_inception.latency.contender import prepare_engine
from edge_inception.latency.measure import Contender

def slowed(engine, percent, folder):
    arm = prepare_engine(Path(engine), 1, None, Path(folder))
    contender = dataclasses.replace(
        arm.contender,
        factory="slowed:open_slowed",
        arguments={{"path": str(Path(engine).resolve()), "percent": percent}},
    )
    return dataclasses.replace(arm, contender=contender)
"""
_TESTS = """
from helpers import slowed
ENGINE = {engine!r}

def test_no_slower(latency_gate):
    latency_gate(ENGINE, ENGINE, {choices})

def test_slowed(latency_gate, tmp_path):
    latency_gate(slowed(ENGINE, 60, tmp_path), ENGINE, {patient})

def test_recorded(latency_gate):
    latency_gate(ENGINE, {choices})

def test_accuracy(accuracy_gate):
    accuracy_gate(ENGINE, ENGINE, {photos!r}, max_drop=20)

def test_missing(latency_gate):
    latency_gate("no/such.blob", ENGINE)

def test_unrelated():
    pass
"""


@pytest.fixture
def repository(built, workshop, tmp_path):
    """A user's repository with an engine and tests of it."""
    engine = str(built / "model.int8.cpu.blob")
    (tmp_path / "helpers.py").write_text(_SLOWED.format(benchmarks=str(BENCHMARKS)))
    text = _TESTS.format(
        engine=engine, choices=CHOICES, patient=PATIENT, photos=str(workshop.validation)
    )
    (tmp_path / "test_engine.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return tmp_path


def run(repository, *arguments):
    """Pytest in that repository: exit code and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", ".", *arguments],
        cwd=repository, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_it_is_installed_as_a_plugin():
    """pytest finds it by the package's entry point, so that a user configures nothing."""
    found = {point.name: point.value for point in metadata.entry_points(group="pytest11")}
    assert found["edge_inception"] == "edge_inception.pytest_plugin"


def test_identical_engines_never_fail(repository):
    """One engine against itself passes, or is undecided and skipped: the exit code is 0."""
    code, text = run(repository, "-k", "no_slower")
    assert code == 0, text
    assert "edge-inception gates" in text
    assert "test_engine.py::test_no_slower" in text
    assert "pairs), limit +3 %" in text


def test_a_slowed_engine_fails_and_says_by_how_much(repository):
    """Every call 60 % longer: exit 1, and the line names the figures; no traceback of ours."""
    code, text = run(repository, "-k", "test_slowed")
    assert code == 1, text
    assert "slower than A (95 % interval +" in text
    assert "Traceback" not in text


def test_accuracy_and_a_missing_engine(repository):
    """The same answers pass; an engine that is not there fails with what to do."""
    code, text = run(repository, "-k", "accuracy or missing")
    assert code == 1
    assert "1 failed, 1 passed" in text
    assert "no engine no/such.blob; build it first: edge-inception build" in text


def test_baselines_are_this_machines(repository):
    """Without a record: skipped, with the flag to write it. Then it is judged against."""
    code, text = run(repository, "-k", "recorded")
    assert code == 0
    assert "run pytest --update-baselines once" in text
    assert run(repository, "-k", "recorded", "--update-baselines")[0] == 0
    (stored,) = repository.glob("latency_baselines/*/*.json")
    record = json.loads(stored.read_text())
    assert stored.parent.name == record["fingerprint"]
    assert len(record["runs"]) == 5
    for entry in record["runs"]:
        entry["median"] /= 4
    stored.write_text(json.dumps(record))
    code, text = run(repository, "-k", "recorded")
    assert code == 1, text
    assert "slower than A" in text


def test_no_measuring_in_parallel(repository):
    """Two workers at once: the gates refuse, whatever else there is runs."""
    code, text = run(repository, "-n", "2", "-k", "no_slower or unrelated")
    assert code == 1
    assert "latency cannot be measured by 2 workers at once" in text
    assert "1 passed, 1 error" in text


def test_marks_select(repository):
    """``-m 'not latency_gate'`` leaves the measurements out, without anybody marking a test."""
    code, text = run(repository, "-m", "not latency_gate and not accuracy_gate")
    assert code == 0
    assert "1 passed" in text
