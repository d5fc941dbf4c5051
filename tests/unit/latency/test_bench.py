from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edge_inception.errors import Inconclusive
from edge_inception.latency import bench
from edge_inception.latency import record as bench_record
from edge_inception.latency.bench import Protocol, run_together
from edge_inception.latency.contender import EngineUnderTest, Feed
from edge_inception.latency.facts import Batches, EngineFacts, Model
from edge_inception.latency.measure import Contender
from edge_inception.latency.record import Verdict, read_record, to_json
from edge_inception.latency.regression import Gate
from edge_inception.latency.telemetry import Clocks, Telemetry, Temperatures
from edge_inception.validate.comparison import Comparison

# a session with known figures; workers import it by name
_CLOCKWORK = """
import os, time
import numpy as np

class Clockwork:
    def __init__(self, threads, ms=2.0, first_ms=0.0, extra=0, log=""):
        self.info = {"threads": threads + extra}
        self._ms, self._first, self._log = ms, first_ms, log
        self.gpu_ms = ms / 2
        time.sleep(0.05)
    gpu_ms = 0.0
    def run(self, images):
        wait, self._first = self._ms + self._first, 0.0
        if self._log:
            with open(self._log, "a") as stream:
                stream.write(f"{os.getpid()} {len(images)}\\n")
        time.sleep(wait / 1000)
        return np.zeros((len(images), 2), np.float32)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
"""
QUICK = Protocol(
    threads=1, warmup_calls=1, warmup_s=0, calls=12, seconds=60, stable=None,
    block_calls=3, discard_calls=1, settle_s=0, timeout_s=120,
)  # fmt: skip


@pytest.fixture
def feed(tmp_path, monkeypatch):
    (tmp_path / "clockwork.py").write_text(_CLOCKWORK)
    monkeypatch.syspath_prepend(tmp_path)
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((4, 3, 2, 2), np.float32))
    return images


FACTS = EngineFacts(
    path="clock", sha256="0" * 64, bytes=1, backend="clock", precision=None,
    float_precision=None, typed=None, batch=Batches(min=1, opt=1, max=1),
    dla_core=None, tied_to={}, graph_sha256=None,
)  # fmt: skip


def _under_test(contender, **feed):
    model = Model(name="clock", input=None)
    return EngineUnderTest(
        engine=None, contender=contender, facts=FACTS, model=model, feed=Feed(**feed)
    )


def _contender(**arguments):
    return Contender(name="clock", factory="clockwork:Clockwork", arguments=arguments)


def test_a_run_of_known_length(feed):
    """Calls that sleep 20 ms, the first 60 more: medians, first call, opening, blocks, compute."""
    (run,) = run_together({"A": _contender(ms=20, first_ms=60)}, feed, QUICK)
    record = bench.run_record(run, QUICK)
    assert record.n == 12
    assert record.blocks == (3, 3, 3, 3)
    assert 20.0 <= record.median < 60
    assert record.first_ms >= 80
    assert record.open_s >= 0.05
    assert record.compute_median == 10.0
    assert record.p99 is None  # twelve calls have no 99th percentile
    assert record.throughput == pytest.approx(1000 / record.mean)
    assert 5 < record.peak_mib < 5000


def test_two_take_turns_in_processes_of_their_own(feed, tmp_path):
    """Blocks go A B, B A, A B, B A; each side is one process, and neither is ours."""
    log = tmp_path / "calls"
    sides = {side: _contender(log=str(log)) for side in ("A", "B")}
    runs = run_together(sides, feed, QUICK, pair=7)
    assert [(run.side, run.pair, len(run.blocks)) for run in runs] == [("A", 7, 4), ("B", 7, 4)]
    pids = [line.split()[0] for line in log.read_text().splitlines()]
    a, b = dict.fromkeys(pids)
    blocks = pids[4:]  # after a first and a warm-up call of each
    assert blocks == [a] * 4 + [b] * 8 + [a] * 8 + [b] * 8 + [a] * 4


def test_streams_run_at_once(feed):
    """Three streams of 60 ms take about 60, not 180, and count three times in the throughput."""
    protocol = _with(streams=3)
    (run,) = run_together({"A": _contender(ms=60)}, feed, protocol)
    record = bench.run_record(run, protocol)
    assert record.median < 150
    assert record.throughput == pytest.approx(3000 / record.mean)


def _with(**changes):
    return dataclasses.replace(QUICK, **changes)


def test_an_unstable_run_goes_on_until_its_limit(feed):
    """A steadiness that sleeping never reaches: timing ends at ``most_s``, not before."""
    (run,) = run_together({"A": _contender(ms=5)}, feed, _with(stable=0.0, most_s=0.4))
    assert sum(run.samples) >= 400


def test_other_threads_than_asked_for_are_no_measurement(feed):
    """A library that takes one thread more is refused with both numbers."""
    with pytest.raises(Inconclusive, match="threads=2, wanted 1"):
        run_together({"A": _contender(extra=1)}, feed, QUICK)


def test_a_record_is_whole_and_strict_json(feed, tmp_path):
    """Its keys are the documented ones, and it survives JSON without NaN or infinity."""
    runs = run_together({"A": _contender()}, feed, QUICK)
    under_test = _under_test(_contender(), sha256="x", description="zeros")
    record = bench.record("single", {"A": under_test}, runs, QUICK)
    text = to_json(record)
    path = tmp_path / "record.json"
    path.write_bytes(text)
    found = json.loads(text)
    json.dumps(found, allow_nan=False)
    assert read_record(path) == record
    for kind, part in (
        (bench_record.BenchRecord, found),
        (EngineFacts, found["engines"]["A"]),
        (bench_record.RunRecord, found["runs"][0]),
    ):
        needed = kind.__struct_encode_fields__[: -len(kind.__struct_defaults__)]
        assert part.keys() == set(needed)
    assert record.protocol.threads == 1
    assert record.fingerprint == bench.fingerprint(record.device, record.protocol)


def test_a_record_of_another_version_is_judged_against(feed, tmp_path):
    """Version 1, as a device wrote it: read, and invalid with what differs or was not recorded."""
    stored = Path(__file__).with_name("records") / "device-1.json"
    session = Comparison(
        protocol=QUICK, gate=Gate(pairs=2, max_pairs=2), image_set=None, folder=tmp_path
    )
    contender = dataclasses.replace(_contender(), images=feed)
    under_test = _under_test(contender, sha256="ab" * 32, description="zeros")
    found = session.against(under_test, stored, trusted=True, progress=lambda *_: None)
    assert found.result.verdict is Verdict.INVALID
    told = found.result.sentence
    assert "threads (not recorded then, 1 now)" in told
    assert "input_sha256 (86987e5b1e15 then, abababababab now)" in told
    path = tmp_path / "compared.json"
    path.write_bytes(to_json(found))
    assert [run.side for run in read_record(path).runs] == ["A", "B", "B"]


def test_measurement_warnings_are_named():
    """A busy machine, throttling and heat each become a warning; a quiet run has none."""
    quiet = Telemetry(
        throttled=False, temp_c=Temperatures(start={}, end={"cpu": 40.0}), power_mw=None,
        cpu_mhz=Clocks(start=None, end=None), gpu_mhz_min=None, unavailable={},
    )  # fmt: skip
    run = bench.Run(
        side="A", pair=0, t0="", blocks=((1.0, 1.0), (1.0, 1.0)), compute_ms=(), open_s=0,
        first_ms=1, peak_mib=1, telemetry=quiet, foreign_cores=0.0,
    )  # fmt: skip
    assert bench.find_warnings(run) == []
    hot = quiet._replace(throttled=True, temp_c=Temperatures(start={}, end={"cpu": 95.0}))
    bad = dataclasses.replace(
        run, telemetry=hot, foreign_cores=1.5, blocks=((1.0, 2.0), (1.0, 9.0))
    )
    text = " ".join(bench.find_warnings(bad))
    for word in ("throttled", "cpu reached 90 C", "1.5 cores", "calls vary"):
        assert word in text
