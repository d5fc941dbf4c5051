from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_inception.errors import Inconclusive, InputError
from edge_inception.latency.measure import Contender, LatencyOptions, measure, ratio

# a real session, slow on purpose; it lives in a file of its own since workers import it by name
_SLEEPERS = """
import os, signal, sys, time
import numpy as np
from edge_inception.errors import InputError

class Sleeper:
    def __init__(self, threads, milliseconds=0.0, fault="", log=""):
        self.seconds, self.fault, self.log = milliseconds / 1000, fault, log
        threads += fault == "threads"
        self.info = {"threads": threads, "omp": os.environ["OMP_NUM_THREADS"]}
        print("noise on standard output")
        if fault == "open":
            raise InputError("the engine is broken", hint="compile it again")
        if fault == "bug":
            raise ZeroDivisionError("a bug")
        if fault == "open hangs":
            time.sleep(60)
    def run(self, images):
        if self.log:
            with open(self.log, "a") as stream:
                stream.write(f"{os.getpid()} {float(images.flat[0])} {images.shape[0]}\\n")
        if self.fault == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            time.sleep(60)
        time.sleep(self.seconds)
        value = np.nan if self.fault == "nan" else 0.0
        return np.full((len(images), 2), value, np.float32)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        if self.log:
            with open(self.log + ".closed", "w") as stream:
                stream.write(str(os.getsid(0)))
"""
_QUICK = LatencyOptions(
    threads=1, rounds=4, calls_per_block=3, warmup_calls=1, warmup_s=0, settle_s=0, timeout_s=120
)


@pytest.fixture
def sleepers(tmp_path, monkeypatch):
    (tmp_path / "sleepers.py").write_text(_SLEEPERS)
    monkeypatch.syspath_prepend(tmp_path)
    images = tmp_path / "images.npy"
    np.save(images, np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((3, 3, 2, 2), "f"))
    return images


def _contender(name, **arguments):
    return Contender(name=name, factory="sleepers:Sleeper", arguments=arguments)


def test_latency_and_ratio_of_sleeping_sessions(sleepers):
    """Sleeps of 16 and 48 ms are timed at that or little more, and the ratio is near 3."""
    seen = []
    found = measure(
        [_contender("quick", milliseconds=16), _contender("slow", milliseconds=48)],
        sleepers,
        _QUICK,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert list(found) == ["quick", "slow"]
    assert found["quick"].num_calls == len(found["quick"].samples_ms) == 12
    assert len(found["quick"].block_medians_ms) == 4
    # a sleep never ends early; how late it ends is the machine's affair
    assert min(found["quick"].samples_ms) >= 16
    assert min(found["slow"].samples_ms) >= 48
    assert found["quick"].p50_ms <= found["quick"].p90_ms
    assert found["quick"].p99_ms is None
    assert found["quick"].info == {"threads": 1, "omp": "1"}
    assert found["quick"].foreign_cores is not None
    assert 0 <= found["quick"].foreign_cores <= (os.cpu_count() or 1) + 0.1
    speed = ratio(found["slow"], found["quick"])
    # a loaded machine adds milliseconds to both: 1.5 is far from 1 and from chance
    assert speed.lower <= speed.value <= speed.upper
    assert 1.5 < speed.value < 3.5
    assert seen[-1] == (8, 8)


def test_blocks_alternate_and_images_go_round(sleepers, tmp_path):
    """Order is A B, B A, ...; one process at a time; images are used in turn, batch by batch."""
    log = tmp_path / "log"
    options = LatencyOptions(
        threads=1, rounds=2, calls_per_block=2, discard_calls=1, warmup_calls=1, warmup_s=0
    )
    measure([_contender("a", log=str(log)), _contender("b", log=str(log))], sleepers, options)
    lines = [line.split() for line in log.read_text().splitlines()]
    first, second = lines[0][0], lines[1][0]
    assert first != second
    order = [{first: "a", second: "b"}[line[0]] for line in lines]
    assert "".join(order) == "a" + "b" + "aaa" + "bbb" + "bbb" + "aaa"
    images = [float(line[1]) for line in lines if line[0] == first]
    assert images == [0, 1, 2, 0, 1, 2, 0]


def test_a_worker_closes_its_session_in_a_terminal_session_of_its_own(sleepers, tmp_path):
    """At the end a worker is asked to leave, not killed; Ctrl-C on the terminal cannot hit it."""
    log = tmp_path / "log"
    measure([_contender("a", log=str(log))], sleepers, _QUICK)
    assert int(log.with_suffix(".closed").read_text()) != os.getsid(0)


def test_a_block_ends_by_time_but_not_before_its_least_calls(sleepers):
    """A block of 0 seconds still times three calls, so a median exists."""
    options = LatencyOptions(
        threads=1, rounds=2, block_s=0, discard_calls=0, warmup_calls=0, warmup_s=0
    )
    found = measure([_contender("a", milliseconds=1)], sleepers, options)
    assert found["a"].num_calls == 2 * 3


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("open", InputError, "'bad': the engine is broken"),
        ("bug", RuntimeError, "ZeroDivisionError: a bug"),
        ("nan", RuntimeError, "not finite"),
        ("death", Inconclusive, r"'bad' died \(exit code -9\)"),
        ("threads", Inconclusive, "threads=2, wanted 1"),
    ],
)
def test_a_fault_in_a_worker_reaches_the_caller(sleepers, fault, error, text):
    """An error, a bug, NaN, a death and wrong threads each arrive with their message."""
    with pytest.raises(error, match=text):
        measure([_contender("bad", fault=fault)], sleepers, _QUICK)


@pytest.mark.parametrize("fault", ["hang", "open hangs"])
def test_a_worker_that_hangs_is_ended(sleepers, fault):
    """After the timeout the measurement is inconclusive; nobody waits for the worker's minute."""
    options = LatencyOptions(threads=1, timeout_s=0.6)
    start = time.monotonic()
    with pytest.raises(Inconclusive, match=r"no answer in 0\.6 s"):
        measure([_contender("bad", fault=fault)], sleepers, options)
    assert time.monotonic() - start < 30


def test_the_hint_of_a_worker_s_error_survives(sleepers):
    """The hint crosses the process border too."""
    with pytest.raises(InputError) as caught:
        measure([_contender("bad", fault="open")], sleepers, _QUICK)
    assert caught.value.hint == "compile it again"


def _children(parent):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("fault", ["", "hang"])
def test_no_worker_outlives_its_parent(sleepers, tmp_path, blow, fault):
    """kill -9 and Ctrl-C leave no worker behind, not even one stuck inside a call."""
    arguments = {"milliseconds": 5, "fault": fault, "log": str(tmp_path / "log")}
    # a shell that runs pytest in the background leaves SIGINT ignored, and children inherit that
    code = f"""
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(tmp_path)!r})
from edge_inception.latency.measure import Contender, LatencyOptions, measure
measure([Contender(name="a", factory="sleepers:Sleeper",
                   arguments={arguments!r})],
        Path({str(sleepers)!r}), LatencyOptions(threads=1, rounds=10000))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        _wait((tmp_path / "log").exists)
        workers = _children(parent.pid)
        assert workers
        os.kill(parent.pid, blow)
        parent.wait(timeout=60)
        _wait(lambda: not any(_is_alive(pid) for pid in workers))
    finally:
        parent.kill()
        parent.wait()


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4, 4)), np.zeros((1, 3, 4, 4), np.float32)],
)
def test_images_that_do_not_fit_are_refused(tmp_path, array):
    """Wrong rank, wrong type and fewer images than a batch are named before any worker starts."""
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(InputError, match=r"wanted float32 or uint8 \[M, 3, H, W\]"):
        measure([_contender("a")], tmp_path / "images.npy", LatencyOptions(batch=2))


def test_missing_images_are_refused(tmp_path):
    """A path without a file is an error with the path."""
    with pytest.raises(InputError, match=r"nowhere\.npy"):
        measure([_contender("a")], tmp_path / "nowhere.npy", _QUICK)


def test_an_engine_that_is_not_there_is_named(sleepers, tmp_path):
    """The factory for engine files loads the artifact, with its checks, inside the worker."""
    factory = "edge_inception.inference:open_engine"
    missing = str(tmp_path / "gone.blob")
    with pytest.raises(InputError, match=r"engine not found: .*gone\.blob"):
        measure(
            [Contender(name="a", factory=factory, arguments={"path": missing})], sleepers, _QUICK
        )
