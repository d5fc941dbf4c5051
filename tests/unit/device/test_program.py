"""The program on the CPU, in process: every command, and what each refuses."""

from __future__ import annotations

import errno
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from edge_inception.device import device, errors, jetson_board, measure, store, verify
from edge_inception.latency.record import read_record
from edge_inception.report import devices

pytestmark = pytest.mark.cpu_isa


def run(bundle, *arguments):
    return device.main([arguments[0], "--bundle", str(bundle), "--threads", "1", *arguments[1:]])


def said(capsys):
    return json.loads(capsys.readouterr().out)


def proof(record):
    return verify.read_verification(record, "record", "none")


@pytest.fixture
def built(copied, capsys):
    assert run(copied, "build") == 0
    capsys.readouterr()
    return copied


def test_build_once(copied, capsys):
    """The second build finds the first one's engine; --force builds again."""
    assert run(copied, "build", "--json") == 0
    assert said(capsys)["built"]
    assert run(copied, "build") == 0
    assert capsys.readouterr().out.startswith("unchanged ")
    assert run(copied, "build", "--force") == 0
    assert capsys.readouterr().out.startswith("built ")


def test_verify_passes_and_says_how(built, photos, capsys):
    """The validated engine again: no error at all; the folder of photos is compared by sha256."""
    assert run(built, "verify", "--images", str(photos), "--json") == 0
    record = said(capsys)
    checks = {check["name"]: check for check in record["checks"]}
    assert checks["preprocessing"]["sentence"] == "3 images bit for bit"
    assert checks["validated answers"]["got"] == "inf"
    assert checks["agreement"]["got"] == 100
    assert record["num_images"] == 12
    assert checks["SQNR"]["wanted"] == 10.0
    assert devices.to_text(proof(record)).endswith("PASSED: the device answers as it was validated")


def test_verify_without_engine_names_build(copied, capsys):
    """verify builds nothing by itself."""
    assert run(copied, "verify") == errors.BAD_INPUT
    assert "python3 device.py build" in capsys.readouterr().err


def test_another_folder_of_images_is_refused(built, tmp_path, capsys):
    """Images that the baseline does not know prove nothing."""
    (tmp_path / "other").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "other/new.png")
    assert run(built, "verify", "--images", str(tmp_path / "other")) == errors.BAD_INPUT
    assert "among the 12 images of the baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("validated", lambda a: a[:, ::-1], "validated answers"),
        ("baseline", lambda a: -a, "baseline answers"),
        ("images", lambda a: a + np.float32(3 / 127.5), "preprocessing"),
    ],
)
def test_each_difference_fails_by_name(built, reseal, name, change, check, capsys):
    """Other answers or other pixels than recorded: exit 6, and the check that noticed."""
    with np.load(built / "golden.npz") as archive:
        golden = dict(archive)
    golden[name] = np.ascontiguousarray(change(golden[name]))
    np.savez(built / "golden.npz", **golden)
    reseal(built)
    assert run(built, "verify", "--json") == errors.GATE_FAILED
    failed = {entry["name"] for entry in said(capsys)["checks"] if entry["status"] == "FAILED"}
    assert check in failed


def test_one_step_of_another_resizer_is_told_not_refused(built, reseal, capsys):
    """A pixel step more than recorded: within the limit, and both Pillow versions are said."""
    with np.load(built / "golden.npz") as archive:
        golden = dict(archive)
    golden["images"][0, 0, 0, 0] += np.float32(1 / 127.5)
    np.savez(built / "golden.npz", **golden)
    reseal(built)
    run(built, "verify", "--json")
    check = next(c for c in said(capsys)["checks"] if c["name"] == "preprocessing")
    assert check["status"] == "PASSED"
    assert check["sentence"].startswith("1 values differ, by at most 1.0 of 255; limit 2 (Pillow")


def test_without_pillow_preprocessing_is_not_claimed(built, monkeypatch, capsys):
    """Golden arrays can be replayed without Pillow; that preprocessing was not proved is said."""
    for name in ("edge_inception.data.pixels", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(built, "verify", "--json") == 0
    check = next(c for c in said(capsys)["checks"] if c["name"] == "preprocessing")
    assert check["status"] == verify.UNKNOWN
    assert "pip3 install" in check["sentence"]
    assert run(built, "classify", "x.png") == errors.LIBRARY_MISSING


def test_an_old_pillow_is_no_traceback(built, photos, monkeypatch, capsys):
    """JetPack 4's Pillow 5.1 has no exif_transpose: verify claims nothing, classify refuses."""
    import PIL
    from PIL import ImageOps

    monkeypatch.setattr(PIL, "__version__", "5.1.0")
    monkeypatch.delattr(ImageOps, "exif_transpose")
    assert run(built, "verify", "--json") == 0
    check = next(c for c in said(capsys)["checks"] if c["name"] == "preprocessing")
    assert (check["status"], "Pillow 5.1.0 is too old" in check["sentence"]) == (
        verify.UNKNOWN,
        True,
    )
    assert run(built, "classify", str(photos / "00.png")) == errors.LIBRARY_MISSING
    assert "Pillow 5.1.0 is too old" in capsys.readouterr().err


def test_classify_is_the_hosts(built, artifacts, photos, capsys):
    """Classes and scores of ``edge-inception classify`` on the same engine."""
    from edge_inception import inference

    paths = sorted(photos.iterdir())[:4]
    assert run(built, "classify", *map(str, paths), "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for mine, theirs in zip(
        lines, inference.classify(artifacts.engine.path, paths, threads=1), strict=True
    ):
        assert [entry["class"] for entry in mine["top"]] == [name for name, _ in theirs.top]
        np.testing.assert_allclose(
            [entry["score"] for entry in mine["top"]], [s for _, s in theirs.top], rtol=1e-5
        )


def test_a_bad_image_is_two_lines(built, tmp_path, capsys):
    """What cannot be decoded is named, with a way out."""
    bad = tmp_path / "bad.png"
    bad.write_text("no image", encoding="utf-8")
    assert run(built, "classify", str(bad)) == errors.BAD_INPUT
    error, fix = capsys.readouterr().err.splitlines()
    assert "is not a PNG, JPEG" in error
    assert fix == "fix: convert it"


def test_bench_writes_the_record(built, tmp_path, capsys):
    """The fields of docs/latency.md, "Record", and statistics that follow from the samples."""
    out = tmp_path / "bench.json"
    flags = ("--seconds", "0", "--warmup", "0", "--calls", "120", "--out", str(out), "--json")
    assert run(built, "bench", *flags) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record == said(capsys)
    assert (record["schema"], record["kind"]) == ("edge-inception/bench", "single")
    (timed,) = record["runs"]
    assert timed["n"] == len(timed["samples_ms"]) == 120
    assert timed["median"] == pytest.approx(np.median(timed["samples_ms"]), abs=1e-3)
    assert timed["p99"] == pytest.approx(np.percentile(timed["samples_ms"], 99), abs=1e-3)
    assert record["engines"]["A"]["precision"] == "int8"
    assert record["device"]["python"] == sys.version.split()[0]
    assert len(record["fingerprint"]) == 12
    assert "batch 1, 120 calls: p50 " in devices.to_text(read_record(out))


NO_BOARD = dict.fromkeys(jetson_board.Board._fields)


def board(**facts):
    return jetson_board.Board(**{**NO_BOARD, **facts})


def test_fingerprints_tell_devices_apart():
    """Another power mode or input is another fingerprint; the number of runs is not."""
    facts = measure.Device(**dict.fromkeys(measure.Device._fields))
    protocol = measure.Conditions(
        runner="python", spin_wait=False, cuda_graph=False, metric="host_to_host_ms",
        input_sha256="ef", batch=1, **measure.Protocol()._asdict(),
    )  # fmt: skip
    one = measure.fingerprint(facts, protocol)
    other_mode = facts._replace(power_mode=jetson_board.PowerMode(2, "25W"))
    assert measure.fingerprint(other_mode, protocol) != one
    assert measure.fingerprint(facts, protocol._replace(batch=2)) != one
    assert measure.fingerprint(facts, protocol._replace(k=10)) == one


def steady_run(**facts):
    return measure.summarize_run([1.0], ())._replace(cov=0.01, **facts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cov": 0.03}, "vary by 3.0 %"),
        ({"temp_c": measure.TemperatureChange({}, {"gpu": 91.0})}, "gpu reached 90 C"),
        ({"gpu_mhz_min": 900}, "fell to 900 MHz"),
    ],
)
def test_doubtful_runs_are_warned_of(change, words):
    """Unstable, hot or throttled: said; a steady run on a pinned board is not."""
    steady = steady_run(temp_c=measure.TemperatureChange({}, {"gpu": 60.0}), gpu_mhz_min=1020)
    mode = jetson_board.PowerMode(0, "MAXN")
    pinned = board(power_mode=mode, clocks_locked=True, gpu_max_mhz=1020)
    assert measure.run_warnings(steady, pinned) == []
    (warning,) = measure.run_warnings(steady._replace(**change), pinned)
    assert words in warning


def test_a_lower_power_mode_is_warned_of():
    """By the board's own list: a Xavier NX has no MAXN, so its 20 W mode is no lower one."""
    mode = jetson_board.PowerMode(1, "25W")
    orin = board(power_mode=mode, power_modes={1: "25W", 2: "MAXN_SUPER"}, clocks_locked=True)
    warned = measure.run_warnings(steady_run(), orin)
    assert warned == ["power mode 25W, the board also has MAXN_SUPER"]
    xavier = orin._replace(
        power_modes={0: "MODE_15W_2CORE", 8: "MODE_20W_6CORE"},
        power_mode=jetson_board.PowerMode(8, "MODE_20W_6CORE"),
    )
    assert measure.run_warnings(steady_run(), xavier) == []


def test_timed_calls_end_when_both_limits_are_reached():
    """At least so many calls and so many seconds; the hard limit ends a run that is too slow."""
    calls = []
    short = measure.Protocol(warmup_s=0, warmup_calls=3, seconds=0, calls=10, most_s=60)
    assert measure.timed_run(calls.append, ["a", "b"], short).n == 10
    assert calls == ["a", "b", "a"] + ["a", "b"] * 5
    cut = measure.Protocol(warmup_s=0, warmup_calls=1, seconds=0, calls=1000, most_s=0)
    assert measure.timed_run(calls.append, ["a"], cut).n == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "error: disk full while writing"),
        (errno.EROFS, "error: Read-only file system while writing"),
        (errno.EACCES, "error: Permission denied while writing"),
    ],
)
def test_a_disk_that_cannot_be_written(copied, monkeypatch, code, words, capsys):
    """Full, read-only, another user's: exit 3 in two lines before minutes of building."""

    def refuse(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store.os, "fsync", refuse)
    assert run(copied, "build") == errors.BAD_INPUT
    err = capsys.readouterr().err
    assert words in err
    assert "fix: " in err
    assert not list((copied / "engine").iterdir())


@pytest.fixture
def counted(monkeypatch):
    """``counted(int8, all)``: what OpenVINO is seen to compute in int8."""
    from edge_inception.engines import _openvino

    real = _openvino._executed_layers

    def count(num_int8, total):
        layers = {"int8_layers": num_int8, "weighted_layers": total}
        changed = lambda compiled: {**real(compiled), **layers}  # noqa: E731
        monkeypatch.setattr(_openvino, "_executed_layers", changed)

    return count


def test_float_layers_on_this_cpu_are_told(copied, counted, capsys):
    """Some of an int8 graph in float, as on aarch64: built, with both counts; all int8: silent."""
    assert run(copied, "build") == 0
    assert "warning" not in capsys.readouterr().out
    counted(1, 49)
    assert run(copied, "build", "--force") == 0
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith("warning: OpenVINO computes 1 of 49 layers in int8 on this CPU")


def test_no_int8_on_this_cpu_is_refused(copied, counted, capsys):
    """None at all: exit 5 and no engine, unless that is accepted."""
    counted(0, 49)
    assert run(copied, "build") == errors.BUILD_FAILED
    assert "none of 49 layers in int8" in capsys.readouterr().err
    assert not (copied / "engine/model.blob").exists()
    assert run(copied, "build", "--accept-float") == 0
    assert "warning: int8 was asked for: OpenVINO" in capsys.readouterr().out


def test_no_openvino(copied, monkeypatch, capsys):
    """check and build say how to get the library, and end with the code of a missing one."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert run(copied, "check") == errors.LIBRARY_MISSING
    assert "fix: pip install openvino" in capsys.readouterr().out
    assert run(copied, "build") == errors.LIBRARY_MISSING


def test_nan_answers_are_refused(built, monkeypatch, capsys):
    """An engine that overflows is no candidate for comparison."""
    from edge_inception.engines import _openvino

    real = _openvino.BlobRunner.run
    broken = lambda self, images: {k: v * np.nan for k, v in real(self, images).items()}  # noqa: E731
    monkeypatch.setattr(_openvino.BlobRunner, "run", broken)
    assert run(built, "verify") == errors.GATE_FAILED
    assert "NaN or infinite" in capsys.readouterr().err


def test_threads_that_are_not_there(copied, capsys):
    """More threads than the process may use: refused with both numbers, not lowered."""
    assert run(copied, "build", "--threads", "9999") == errors.BAD_INPUT
    assert "9999 threads asked for, this process may use" in capsys.readouterr().err
