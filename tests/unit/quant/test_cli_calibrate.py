"""The command ``calibrate``: shards, their merging, and what is refused before any work."""

from __future__ import annotations

import pytest

from edge_inception import cli, stage
from edge_inception.spec import Preprocess


@pytest.fixture
def command(model, save, photos, tmp_path):
    """Run calibrate on the block and the eleven photos; the exit code."""
    graph = save(model, preprocess=stage.plain(Preprocess(input_size=(16, 16))))
    folder = str(photos.items[0].path.parent)

    def run(out, *flags):
        fixed = ["--calibration", folder, "--batch", "4", "--threads", "1"]
        arguments = ["calibrate", str(graph.path), *fixed, *flags, "--out", str(tmp_path / out)]
        return cli.run(arguments)

    return run


def test_shards_merge_to_the_table_of_one_run(command, tmp_path, capsys):
    """Two runs and one that merges them write what one run over all images writes."""
    assert command("whole.json") == 0
    assert command("1.json", "--shard", "1/2") == 0
    assert command("2.json", "--shard", "2/2") == 0
    merged = [flag for i in (2, 1) for flag in ("--merge", str(tmp_path / f"{i}.json"))]
    assert command("merged.json", *merged) == 0
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "merged.json")
    for suffix in (".json", ".npz"):
        merged_file, whole = (tmp_path / f"{name}{suffix}" for name in ("merged", "whole"))
        assert merged_file.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(command, tmp_path, capsys, shard):
    """Exit code 3 and the form that is wanted."""
    assert command("r.json", "--shard", shard) == 3
    assert "wanted I/N with I from 1 to N" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_shard_is_not_merged_at_once(command, capsys):
    """The two flags exclude each other."""
    assert command("r.json", "--shard", "1/2", "--merge", "other.json") == 3
    assert "--shard and --merge together" in capsys.readouterr().err
