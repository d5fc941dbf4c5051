"""Tables of shards against one run over all images: the same bytes, or a refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from edge_inception.errors import InputError
from edge_inception.quant import ranges
from edge_inception.quant.merge import merge
from edge_inception.quant.observe import calibrate


@pytest.fixture
def graph(model, save):
    return save(model)


def shards(graph, photos, options, folder, of):
    return [
        calibrate(graph, photos, replace(options, shard=(i + 1, of)), folder / f"{i}of{of}.json")
        for i in range(of)
    ]


def content(table):
    return table.path.read_bytes(), table.path.with_suffix(".npz").read_bytes()


@pytest.mark.parametrize("of", [1, 2, 3])
def test_any_sharding_gives_the_bytes_of_one_run(graph, photos, options, tmp_path, of):
    """Table and statistics of eleven photos in batches of 4, the last one padded.

    Each shard has its photos in another order, and they are merged backwards.
    """
    whole = calibrate(graph, photos, options, tmp_path / "whole.json")
    random = np.random.default_rng(of)
    parts = []
    for index in range(of):
        order = random.permutation(len(photos.items))
        shuffled = replace(photos, items=tuple(photos.items[i] for i in order))
        how = replace(options, shard=(index + 1, of))
        parts.append(calibrate(graph, shuffled, how, tmp_path / f"{index}.json"))
    merged = merge(graph, photos, options, parts[::-1], tmp_path / "merged.json")
    assert content(merged) == content(whole)
    assert merged.provenance == whole.provenance
    assert merged.counts == whole.counts


def test_shards_share_out_the_images(graph, photos, options, tmp_path):
    """Every photo is in one shard."""
    parts = shards(graph, photos, options, tmp_path, 3)
    assert [part.counts["num_images"] for part in parts] == [4, 4, 3]
    assert [ranges.read_table(part).shard for part in parts] == [(1, 3), (2, 3), (3, 3)]


def test_a_shard_without_a_batch_is_refused(graph, photos, options, tmp_path):
    """Eleven photos are three batches; a fourth shard has nothing to do."""
    how = replace(options, shard=(4, 4))
    with pytest.raises(InputError, match="shard 4 of 4: 11 images are 3 batches of 4"):
        calibrate(graph, photos, how, tmp_path / "r.json")


def test_a_missing_shard_is_refused(graph, photos, options, tmp_path):
    """So is one that is given twice, and one of another sharing."""
    one, two = shards(graph, photos, options, tmp_path, 2)
    whole = calibrate(graph, photos, options, tmp_path / "whole.json")
    for parts, message in (
        ([one], "got shards 1 of 2"),
        ([one, one], "got shards 1, 1 of 2"),
        ([one, two, whole], "shards of 1, 2"),
    ):
        with pytest.raises(InputError, match=message):
            merge(graph, photos, options, parts, tmp_path / "merged.json")


def test_shards_of_other_things_are_refused(graph, photos, options, tmp_path):
    """Another set, another seed, another batch: the key, what it is and what it should be."""
    parts = shards(graph, photos, options, tmp_path, 2)
    fewer = replace(photos, items=photos.items[1:])
    for images, how, message in (
        (fewer, options, f"other parents: images .got {photos.sha256}, wanted {fewer.sha256}"),
        (photos, replace(options, seed=7), "other options: seed .got 0, wanted 7"),
        (photos, replace(options, batch=8), "other options: batch .got 4, wanted 8"),
    ):
        with pytest.raises(InputError, match=message):
            merge(graph, images, how, parts, tmp_path / "merged.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 7}, "was made with 7 threads in f32, .* with 1 thread in f32"),
        ({"precision": "bf16"}, "was made with 1 thread in bf16, .* with 1 thread in f32"),
    ],
)
def test_shards_of_other_machines_are_refused(graph, photos, options, tmp_path, change, message):
    """Sums depend on threads, of which 0 means all usable ones, and on the float precision."""
    one, two = shards(graph, photos, options, tmp_path, 2)
    engine = structs.replace(two.details.engine, **change)
    other = replace(two, details=structs.replace(two.details, engine=engine))
    with pytest.raises(InputError, match=message) as caught:
        merge(graph, photos, options, [one, other], tmp_path / "merged.json")
    assert "--threads" in caught.value.hint
    assert not (tmp_path / "merged.json").exists()
