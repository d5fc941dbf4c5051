"""What makes a stage run again, and who may write into a folder."""

from __future__ import annotations

import ast
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import sidecars
from msgspec import structs

from edge_inception import artifact
from edge_inception import stage as subject
from edge_inception.artifact import Graph, RangeTable
from edge_inception.baseline import options as baseline
from edge_inception.engines import _registry as backends
from edge_inception.errors import InputError
from edge_inception.export import options as export
from edge_inception.graph import options as graph
from edge_inception.quant import options as quant
from edge_inception.search import options as search
from edge_inception.spec import Preprocess
from edge_inception.training import options as train
from edge_inception.validate import options as validate

PACKAGE = Path(subject.__file__).parent
# Words decide nothing about a result by themselves: records, reading and writing, looking up.
WORDS = {
    "__init__",
    "_version",
    "errors",
    "records",
    "spec",
    "sidecar",
    "artifact",
    "stage",
    "registry",
} | {"data/imageset", "hardware/cores"}
STAGES = {
    found.name: found
    for found in (
        *(train.TRAIN, train.QAT, export.EXPORT, export.INTERFACE, graph.IMPORT, graph.SIMPLIFY),
        *(baseline.BASELINE, baseline.ONNX_BASELINE, quant.CALIBRATE, quant.IMPORT_RANGES),
        *(quant.QUANTIZE, quant.CALIBRATION_CACHE, search.SEARCH, validate.VALIDATE),
        *(backends.backend(name).stage for name in backends.backend_names()),
    )
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    calibrator: str = "mse"
    images: int = 64


def origin(**changes):
    given = {"parents": {"graph": "aa"}, "options": Options()} | changes
    return subject.provenance(quant.QUANTIZE, **given)


@pytest.fixture
def built(tmp_path):
    """A graph as the quantize stage would have left it."""
    path = tmp_path / "typed.onnx"
    return artifact.publish(Graph, path, b"x", provenance=origin(), details=sidecars.graph())


class TestReuse:
    def test_nothing_changed(self, built):
        """With the same inputs, options, tools and source the file is reused."""
        assert subject.reusable(Graph, built.path, origin()) == (built, "")

    @pytest.mark.parametrize(
        ("expected", "reason"),
        [
            (lambda: origin(options=Options(calibrator="max")), "options changed: calibrator"),
            (
                lambda: origin(options=Options(calibrator="max", images=1)),
                "options changed: calibrator, images",
            ),
            (lambda: origin(parents={"graph": "bb"}), "parents changed: graph"),
            (lambda: origin(parents={"graph": "aa", "ranges": "c"}), "parents changed: ranges"),
            (
                lambda: structs.replace(origin(), tools={"onnx": "0"}),
                "tools changed: numpy, on",
            ),
            (lambda: structs.replace(origin(), source="0"), "source changed"),
            (lambda: structs.replace(origin(), stage="export"), "stage changed"),
        ],
    )
    def test_says_what_changed(self, built, expected, reason):
        """A stage runs again when anything it depends on changed, and names it."""
        got, why = subject.reusable(Graph, built.path, expected())
        assert got is None
        assert why.startswith(reason)

    def test_first_time(self, tmp_path):
        """A file that is not there is built."""
        got = subject.reusable(Graph, tmp_path / "absent", origin())
        assert got == (None, "not built yet")

    def test_tampered(self, built):
        """A file that does not match its sidecar is built again, with the reason."""
        built.path.write_bytes(b"y")
        assert "does not match" in subject.reusable(Graph, built.path, origin())[1]

    def test_other_kind(self, built):
        """A file of another kind is not reused."""
        _, reason = subject.reusable(RangeTable, built.path, origin())
        assert "wanted a range table" in reason

    def test_source_of_the_stage(self, monkeypatch, tmp_path):
        """The key changes with any byte of the stage's own source, and with a new file in it."""
        for folder in ("quant", "graph"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a.py").write_text("x = 1\n")
        (tmp_path / "train.py").write_text("")
        monkeypatch.setattr(subject, "_PACKAGE", tmp_path)
        seen = []
        changes = (
            lambda: None,
            lambda: (tmp_path / "quant" / "a.py").write_text("x = 2\n"),
            lambda: (tmp_path / "graph" / "b.py").write_text(""),
            lambda: (tmp_path / "graph" / "b.py").rename(tmp_path / "graph" / "c.py"),
            lambda: (tmp_path / "train.py").write_text("not of this stage\n"),
        )
        for change in changes:
            change()
            subject._digest.cache_clear()
            seen.append(origin().source)
        subject._digest.cache_clear()
        assert len(set(seen[:4])) == 4
        assert seen[4] == seen[3]

    def test_tool_versions(self):
        """Tools are recorded as their distributions call themselves."""
        from importlib import metadata

        assert origin().tools == {n: metadata.version(n) for n in ("onnx", "numpy")}
        assert subject.tool_version("no-such-distribution") == "absent"

    def test_what_a_sidecar_says_counts_too(self, tmp_path):
        """Preprocessing and class names stand in no graph: the same bytes are another input."""
        made = [
            artifact.publish(
                artifact.Graph,
                tmp_path / f"{mean}.onnx",
                b"the same",
                provenance=subject.provenance(export.EXPORT, parents={}, options=None),
                details=sidecars.graph(preprocess=Preprocess(input_size=(8, 8), mean=(mean,) * 3)),
            )
            for mean in (0.5, 0.25, 0.5)
        ]
        first, other, again = (
            subject.provenance(graph.SIMPLIFY, parents={"graph": one}, options=None) for one in made
        )
        assert first.parents["graph"] == other.parents["graph"] == made[0].sha256
        assert first != other
        assert first == again

    def test_compile_depends_on_its_backend(self):
        """A compile stage is keyed on its engine library and its own file."""
        made = subject.provenance(STAGES["compile:openvino"], parents={}, options=None)
        assert set(made.tools) >= {"openvino"}
        assert made.source != origin().source

    def test_sets_have_no_order(self):
        """The order of a set, which changes from process to process, is not recorded."""
        words = {f"layer{i}" for i in range(50)}
        assert subject.plain(words) == sorted(words)

    def test_key_is_cheap(self):
        """All keys of a build together take well under the 3 s of a second build."""
        code = """
            import time
            from edge_inception import stage
            from edge_inception.baseline import options as baseline
            from edge_inception.engines import _registry as backends
            from edge_inception.export import options as export
            from edge_inception.graph import options as graph
            from edge_inception.quant import options as quant
            from edge_inception.validate import options as validate
            stages = [export.EXPORT, graph.SIMPLIFY, baseline.BASELINE, quant.CALIBRATE]
            stages += [quant.QUANTIZE, validate.VALIDATE, backends.backend("openvino").stage]
            started = time.process_time()
            for one in stages:
                stage.provenance(one, parents={}, options={})
            print(time.process_time() - started)
        """
        seconds = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)])
        assert float(seconds) < 0.5  # measured 0.05 s; CPU time, so that neighbours do not count


def imported_by(file):
    """Files of this package that ``file`` imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_inception"):
            modules = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            modules = [a.name for a in node.names if a.name.startswith("edge_inception.")]
        else:
            continue
        paths = [PACKAGE.parent.joinpath(*m.split(".")).with_suffix(".py") for m in modules]
        found |= {path for path in paths if path.is_file()}
    return found


def sources_of(name):
    """Files a stage is keyed on, as ``_digest`` is asked for them."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "_digest", lambda sources: asked.extend(sources) or "")
        subject.provenance(STAGES[name], parents={}, options={})
    roots = [PACKAGE / source for source in asked]
    assert all(root.exists() for root in roots)
    return {f for root in roots for f in ([root] if root.is_file() else root.rglob("*.py"))}


@pytest.mark.parametrize("name", STAGES)
def test_key_covers_all_code(name):
    """The source a stage is keyed on holds everything of ours that its code imports."""
    keyed = sources_of(name)
    seen, todo = set(), set(keyed)
    while todo:
        file = todo.pop()
        if file.relative_to(PACKAGE).with_suffix("").as_posix() not in WORDS:
            seen.add(file)
            todo |= imported_by(file) - seen
    outside = {f.relative_to(PACKAGE).as_posix() for f in seen - keyed}
    # quant/observe.py decodes photos for calibrate; others, keyed on the same folder, do not.
    decodes_nothing = name in {"quantize", "calibration_cache"}
    assert outside <= ({"data/images.py", "data/pixels.py"} if decodes_nothing else set())


HOLDER = """
    import sys, time
    from pathlib import Path
    from edge_inception import stage
    with stage.lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""

FORKS = """
    import os, signal, sys
    from pathlib import Path
    from edge_inception import stage
    folder = Path(sys.argv[1])
    with stage.lock(folder):
        child = os.fork()
        if not child:
            signal.pause()
    try:
        with stage.lock(folder):
            print("free")
    finally:
        os.kill(child, signal.SIGKILL)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestLock:
    def test_of_another_process(self, holder, tmp_path):
        """A folder in use is refused with the process that uses it."""
        with (
            pytest.raises(InputError, match=rf"\(process {holder.pid}\)") as caught,
            subject.lock(tmp_path),
        ):
            pass
        assert "--out" in caught.value.hint

    def test_ends_with_a_killed_process(self, holder, tmp_path):
        """kill -9 frees the folder, and the next build names itself in it."""
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with subject.lock(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())

    def test_ends_with_the_block(self, tmp_path):
        """The folder is free after the build, also after one that failed."""
        with pytest.raises(ZeroDivisionError), subject.lock(tmp_path):
            raise ZeroDivisionError
        with subject.lock(tmp_path):
            pass

    def test_ends_with_the_block_and_not_with_its_children(self, tmp_path):
        """What a library forked meanwhile, as OpenVINO's telemetry does, holds no folder."""
        command = [sys.executable, "-c", textwrap.dedent(FORKS), str(tmp_path)]
        assert subprocess.run(command, capture_output=True, check=False).stdout == b"free\n"

    def test_of_another_thread(self, tmp_path):
        """Two threads of one process do not share a folder either."""
        refused = []

        def try_it():
            try:
                with subject.lock(tmp_path):
                    pass
            except InputError as error:
                refused.append(str(error))

        with subject.lock(tmp_path):
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
        assert f"process {os.getpid()}" in refused[0]

    def test_is_not_inherited(self, tmp_path):
        """A child that outlives the build does not keep the folder."""
        with subject.lock(tmp_path):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            with subject.lock(tmp_path):
                pass
        finally:
            child.kill()
            child.wait()

    def test_error_of_the_block_is_its_own(self, tmp_path):
        """A BlockingIOError raised inside is not mistaken for a folder in use."""
        with pytest.raises(BlockingIOError), subject.lock(tmp_path):
            raise BlockingIOError

    def test_clears_leftovers(self, tmp_path):
        """Temporary files of a killed build are gone once the folder is held."""
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        leftover = tmp_path / f".m.onnx.{dead.pid}.0123abcd.edge-inception.partial"
        leftover.write_bytes(b"half")
        with subject.lock(tmp_path):
            assert not leftover.exists()

    def test_folder_that_cannot_be_made(self, tmp_path):
        """A file where the output folder should be is refused."""
        (tmp_path / "out").write_bytes(b"")
        with (
            pytest.raises(InputError, match="cannot use output folder"),
            subject.lock(tmp_path / "out" / "deeper"),
        ):
            pass

    def test_is_quick_to_refuse(self, holder, tmp_path):
        """A second build does not wait for the first, which has the folder for a minute."""
        started = time.monotonic()
        with pytest.raises(InputError), subject.lock(tmp_path):
            pass
        assert holder.poll() is None
        assert time.monotonic() - started < 30
