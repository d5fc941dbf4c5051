"""Files with sidecars: written whole or not at all, and refused when they do not match."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
import sidecars

from edge_inception import artifact as subject
from edge_inception import stage
from edge_inception.artifact import Graph, Provenance, RangeTable
from edge_inception.errors import InputError
from edge_inception.sidecar import RangeTableDetails

ORIGIN = Provenance(
    stage="export",
    parents={"checkpoint": "ab" * 32},
    options={"model": "m", "size": [3, 4]},
    tools={"torch": "2.13.0"},
    source="cd" * 32,
)


def publish(path, content=b"content", **extra):
    return subject.publish(
        Graph, path, content, provenance=ORIGIN, **{"details": sidecars.graph(), **extra}
    )


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path / "model.onnx", counts={"Conv": 149})


class TestRoundTrip:
    def test_load_gives_what_publish_gave(self, published):
        """A later run sees exactly what the run that wrote it saw."""
        assert subject.load(Graph, published.path) == published

    def test_types_are_those_of_the_file(self, tmp_path):
        """Whole numbers become floats at once, so that a fresh run and a reuse agree."""
        made = publish(tmp_path / "a", details=sidecars.graph(error_of_pytorchs=1))
        assert isinstance(made.details.error_of_pytorchs, float)
        assert subject.load(Graph, made.path) == made

    def test_sidecar_says_everything(self, published):
        """The sidecar holds the hash of the bytes, the origin and the counts."""
        record = json.loads((published.path.parent / "model.onnx.json").read_text())
        assert record == {
            "schema": 1,
            "kind": "graph",
            "stage": "export",
            "sha256": hashlib.sha256(b"content").hexdigest(),
            "parents": {"checkpoint": "ab" * 32},
            "options": {"model": "m", "size": [3, 4]},
            "tools": {"torch": "2.13.0"},
            "source": "cd" * 32,
            "counts": {"Conv": 149},
            "details": stage.plain(sidecars.graph()),
        }

    def test_same_input_same_bytes(self, tmp_path):
        """Two runs write equal sidecars: no date, no path, no order of a dictionary."""
        types = {"float16": 1, "float32": 2}
        turned = dict(reversed(types.items()))
        first = publish(tmp_path / "x" / "m", details=sidecars.graph(checkpoint_types=types))
        second = publish(tmp_path / "y" / "m", details=sidecars.graph(checkpoint_types=turned))
        read = [subject.sidecar_path(made.path).read_bytes() for made in (first, second)]
        assert read[0] == read[1]

    def test_folder_is_made(self, tmp_path):
        """Missing folders are made; only file and sidecar stand in them."""
        publish(tmp_path / "deep" / "down" / "m.onnx")
        assert names(tmp_path / "deep" / "down") == ["m.onnx", "m.onnx.json"]

    def test_file_sha256_of_many_blocks(self, tmp_path):
        """The digest is that of the whole file, over block borders."""
        content = bytes(range(256)) * 9000
        (tmp_path / "f").write_bytes(content)
        assert subject.file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()

    def test_options_of_any_record(self):
        """Enums, paths, sets and nested records are recorded as JSON and compare equal later."""

        class Colour(Enum):
            RED = "red"

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Inner:
            colours: frozenset[Colour]
            by: dict[Colour, Path]

        options = Inner(colours=frozenset(Colour), by={Colour.RED: Path("a/b")})
        plain = stage.plain(options)
        assert plain == {"colours": ["red"], "by": {"red": "a/b"}}
        assert json.loads(json.dumps(plain)) == plain


class TestRefused:
    def refused(self, path, kind=Graph):
        with pytest.raises(InputError) as caught:
            subject.load(kind, path)
        assert caught.value.hint
        return str(caught.value)

    def test_tampered_file(self, published):
        """One changed byte is refused; both hashes are shown."""
        published.path.write_bytes(b"c0ntent")
        message = self.refused(published.path)
        assert published.sha256[:12] in message
        assert hashlib.sha256(b"c0ntent").hexdigest()[:12] in message

    def test_wrong_kind(self, published):
        """A graph is not a range table."""
        assert "is a graph, wanted a range table" in self.refused(published.path, RangeTable)

    def test_missing(self, tmp_path):
        """A missing file is named."""
        assert "not found" in self.refused(tmp_path / "absent.onnx")

    def test_without_sidecar(self, published):
        """Any ONNX file is not an artifact."""
        subject.sidecar_path(published.path).unlink()
        assert "no sidecar" in self.refused(published.path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff", "{}", '{"schema": 1}'])
    def test_spoilt_sidecar(self, published, text):
        """A sidecar that is not one is refused, whatever it holds."""
        subject.sidecar_path(published.path).write_bytes(text.encode("latin-1"))
        self.refused(published.path)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("schema", 2), ("sha256", 5), ("counts", []), ("parents", None), ("stage", None)],
    )
    def test_spoilt_field(self, published, key, value):
        """A field of another type or another schema is refused."""
        sidecar = subject.sidecar_path(published.path)
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), key: value}))
        assert "schema 1" in self.refused(published.path)

    def test_additional_field(self, published):
        """A field that this version does not know is refused and not dropped."""
        sidecar = subject.sidecar_path(published.path)
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "new": 1}))
        assert "schema 1" in self.refused(published.path)


class TestBeside:
    @pytest.fixture
    def pair(self, tmp_path):
        path = tmp_path / "ranges.json"
        beside = subject.write_beside(path, ".npz", lambda file: file.write_bytes(b"more") and None)
        details = RangeTableDetails(beside=beside)
        return subject.publish(RangeTable, path, b"{}", provenance=ORIGIN, details=details)

    def test_it_belongs_by_hash(self, pair):
        """The sidecar knows it, and the pair loads."""
        assert pair.details.beside == {".npz": hashlib.sha256(b"more").hexdigest()}
        assert subject.load(RangeTable, pair.path) == pair

    def test_another_or_none_is_refused(self, pair):
        """A changed file beside it, or a missing one, is the end of the pair."""
        other = pair.path.with_suffix(".npz")
        other.write_bytes(b"else")
        with pytest.raises(InputError, match="was not written with") as caught:
            subject.load(RangeTable, pair.path)
        assert "'export'" in caught.value.hint
        other.unlink()
        with pytest.raises(InputError, match="cannot read"):
            subject.load(RangeTable, pair.path)

    def test_a_full_disk_leaves_the_old_ones(self, pair):
        """What cannot be written takes nothing away."""

        def write(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.raises(InputError, match="disk full"):
            subject.write_beside(pair.path, ".npz", write)
        assert subject.load(RangeTable, pair.path) == pair


class TestFailedWrite:
    def fails(self, path, content):
        with pytest.raises(InputError) as caught:
            subject.replace_file(path, content)
        assert "--out" in caught.value.hint
        return str(caught.value)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_old_pair_stays(self, published, number):
        """When the disk fills, the old file is whole and nothing is left behind."""

        def write(path):
            path.write_bytes(b"half")
            raise OSError(number, os.strerror(number))

        assert "disk full" in self.fails(published.path, write)
        assert names(published.path.parent) == ["model.onnx", "model.onnx.json"]
        assert subject.load(Graph, published.path) == published

    def test_full_device(self, tmp_path):
        """The kernel's own ENOSPC is told as a full disk."""

        def write(path):
            path.symlink_to("/dev/full")
            path.write_bytes(b"x" * 10_000)

        assert "disk full" in self.fails(tmp_path / "m", write)
        assert names(tmp_path) == []

    def test_full_tmpfs(self, tmp_path):
        """On a really full file system the old pair survives and no temporary file stays."""
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)],  # noqa: S607
            check=False,
            capture_output=True,
        )
        if mounted.returncode:
            pytest.skip("mount needs root; test_full_device covers ENOSPC without it")
        try:
            old = publish(tmp_path / "m", b"old")
            assert "disk full" in self.fails(old.path, bytes(1 << 20))
            assert names(tmp_path) == ["m", "m.json"]
            assert subject.load(Graph, old.path) == old
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)  # noqa: S607

    def test_file_size_limit(self, tmp_path):
        """A process limit on file size (ulimit -f) is told as a full disk."""
        old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limits[1]))
        try:
            message = self.fails(tmp_path / "m", bytes(1 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        assert "disk full" in message
        assert names(tmp_path) == []

    def test_file_in_the_place_of_a_folder(self, tmp_path):
        """An output folder that is a file is refused."""
        (tmp_path / "file").write_bytes(b"")
        assert "cannot write" in self.fails(tmp_path / "file" / "m", b"x")

    def test_folder_in_the_place_of_a_file(self, tmp_path):
        """A folder is not replaced by a file."""
        (tmp_path / "m" / "inside").mkdir(parents=True)
        assert "cannot write" in self.fails(tmp_path / "m", b"x")
        assert names(tmp_path) == ["m"]

    def test_endless_name(self, tmp_path):
        """A name longer than the file system takes is refused."""
        assert "cannot write" in self.fails(tmp_path / ("m" * 300), b"x")

    def test_bug_keeps_its_type(self, tmp_path):
        """An error of the writer's own is not dressed up; the temporary file goes all the same."""

        def write(path):
            path.write_bytes(b"half")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            subject.replace_file(tmp_path / "m", write)
        assert names(tmp_path) == []

    def test_interrupt_leaves_nothing(self, tmp_path):
        """Control-C during a write leaves no half file."""

        def write(path):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            subject.replace_file(tmp_path / "m", write)
        assert names(tmp_path) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from edge_inception import artifact
    from edge_inception.artifact import Graph, Provenance

    sys.path.append(sys.argv[3])
    import sidecars

    folder, when = Path(sys.argv[1]), sys.argv[2]
    origin = Provenance(stage="export", parents={}, options={}, tools={}, source="new")
    real, calls = Path.replace, []

    def write(path):
        path.write_bytes(b"new content")
        if when == "writing":
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self, target):
        calls.append(target)
        if when == "before rename" or (when == "before sidecar" and len(calls) == 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, target)

    Path.replace = replace
    details = sidecars.graph()
    artifact.publish(Graph, folder / "model.onnx", write, provenance=origin, details=details)
"""


KILLED_BESIDE = """
    import os, signal, sys
    from pathlib import Path
    from edge_inception import artifact
    from edge_inception.artifact import Provenance, RangeTable
    from edge_inception.sidecar import RangeTableDetails

    path, content, renames = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
    origin = Provenance(stage="calibrate", parents={}, options={}, tools={}, source="")
    real, calls = Path.replace, []

    def replace(self, target):
        if len(calls) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(target)
        return real(self, target)

    beside = lambda temporary: temporary.write_bytes(content)
    if renames == 0:  # killed while it writes, not when it is about to rename
        beside = lambda temporary: os.kill(os.getpid(), signal.SIGKILL)
    Path.replace = replace
    details = RangeTableDetails(num_rounded=1, beside=artifact.write_beside(path, ".npz", beside))
    artifact.publish(RangeTable, path, content, provenance=origin, details=details)
"""


class TestKilled:
    @pytest.fixture
    def kill(self, tmp_path):
        def run(when):
            code, beside = textwrap.dedent(KILLED), str(Path(sidecars.__file__).parent)
            command = [sys.executable, "-c", code, str(tmp_path), when, beside]
            done = subprocess.run(command, check=False, capture_output=True)
            assert done.returncode == -signal.SIGKILL, done.stderr

        return run

    @pytest.mark.parametrize("when", ["writing", "before rename"])
    def test_old_pair_is_whole(self, published, kill, when):
        """kill -9 before the rename leaves the old pair, and a temporary file that is cleared."""
        kill(when)
        assert subject.load(Graph, published.path) == published
        assert len(names(published.path.parent)) == 3
        subject.remove_leftovers(published.path.parent)
        assert names(published.path.parent) == ["model.onnx", "model.onnx.json"]

    def test_new_file_with_old_sidecar_is_refused(self, published, kill):
        """kill -9 between the two renames leaves a pair that no stage takes."""
        kill("before sidecar")
        assert published.path.read_bytes() == b"new content"
        with pytest.raises(InputError, match="does not match its sidecar"):
            subject.load(Graph, published.path)

    def test_first_file_without_sidecar_is_refused(self, tmp_path, kill):
        """The same on a first run leaves a file without a sidecar, which is not an artifact."""
        kill("before sidecar")
        with pytest.raises(InputError, match="no sidecar"):
            subject.load(Graph, tmp_path / "model.onnx")

    @pytest.fixture
    def kill_beside(self, tmp_path):
        """Write a table and what lies beside it, then again, killed before the given rename."""

        def run(renames):
            path, code = tmp_path / "ranges.json", textwrap.dedent(KILLED_BESIDE)
            for content, count in (("old", 9), ("new", renames)):
                command = [sys.executable, "-c", code, str(path), content, str(count)]
                done = subprocess.run(command, check=False, capture_output=True)
                assert done.returncode == (-signal.SIGKILL if count < 3 else 0), done.stderr
            return path

        return run

    @pytest.mark.parametrize(("renames", "content"), [(0, b"old"), (3, b"new")])
    def test_a_file_beside_is_of_the_same_run(self, kill_beside, renames, content):
        """kill -9 while it is written leaves the old three files; after the last rename the new."""
        path = kill_beside(renames)
        assert subject.load(RangeTable, path).details.num_rounded == 1
        assert path.read_bytes() == path.with_suffix(".npz").read_bytes() == content

    @pytest.mark.parametrize("renames", [1, 2])
    def test_a_torn_pair_is_refused(self, kill_beside, renames):
        """kill -9 between the renames leaves no sidecar, so that the stage runs again."""
        with pytest.raises(InputError, match="no sidecar"):
            subject.load(RangeTable, kill_beside(renames))

    def test_leftovers_of_the_living_stay(self, tmp_path):
        """A temporary file of a running process is not taken away, nor are files of others."""
        seen = []

        def write(path):
            path.write_bytes(b"half")
            subject.remove_leftovers(tmp_path)
            seen.append(path.exists())

        kept = [".notes.partial", ".edge-inception.partial", ".a.b.edge-inception.partial"]
        for name in kept:
            (tmp_path / name).write_bytes(b"")
        subject.replace_file(tmp_path / "m", write)
        assert seen == [True]
        assert names(tmp_path) == sorted([*kept, "m"])

    def test_process_that_others_own_is_alive(self, tmp_path):
        """Process 1 lives, although this user may not signal it."""
        file = tmp_path / ".m.1.01234567.edge-inception.partial"
        file.write_bytes(b"")
        subject.remove_leftovers(tmp_path)
        assert file.exists()


def test_two_threads_write_the_same_file(tmp_path):
    """Threads that publish the same path at once leave one whole content, not a mixture."""
    both_are_writing = threading.Barrier(2)
    failures = []

    def publish_one(content):
        def write(path):
            path.write_bytes(content[:100])
            both_are_writing.wait(timeout=60)
            with path.open("ab") as stream:
                stream.write(content[100:])

        try:
            subject.replace_file(tmp_path / "m", write)
        except BaseException as error:  # noqa: BLE001 -- shown by the assertion below
            failures.append(error)

    contents = [bytes([value]) * 1000 for value in (1, 2)]
    threads = [threading.Thread(target=publish_one, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "m").read_bytes() in contents
    assert names(tmp_path) == ["m"]
