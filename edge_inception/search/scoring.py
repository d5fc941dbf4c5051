"""Scores of int8 graphs on calibration images, computed on this CPU: the stage ``search``.

An int8 graph is written to a temporary file and run by OpenVINO in batches. Its logits are compared
with those of the FP32 graph in OpenVINO. The images' labels are used if all images have a label and
their classes are those of the network; else the top-1 class of FP32 is the label.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from edge_inception import artifact, stage
from edge_inception.artifact import RangeTable, SearchResult, SimplifiedGraph, TypedGraph
from edge_inception.data import batches, images
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.device import outputs
from edge_inception.engines import _openvino
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.graph.batch import possible_batch
from edge_inception.graph.check import load_graph
from edge_inception.hardware.cores import usable_threads
from edge_inception.quant import search_record
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.options import QuantizeOptions, policy_of, resolve
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.ranges import table_for
from edge_inception.quant.search_record import (
    RankedGroup,
    ScoredSet,
    SearchOutcome,
    SearchRecord,
)
from edge_inception.search import search
from edge_inception.search.journal import Journal
from edge_inception.search.options import SearchOptions, search_provenance
from edge_inception.search.search import Group, ImageDifferences, Result, ScoreTable
from edge_inception.search.sensitivity import estimate_groups
from edge_inception.sidecar import Provenance, SearchDetails
from edge_inception.spec import Budget, Precision, Preprocess, Progress, no_progress


def journal_path(path: Path) -> Path:
    """``model.search.json`` -> ``model.search.journal``."""
    return path.with_suffix(".journal")


def search_precision(
    graph: SimplifiedGraph,
    ranges: RangeTable,
    image_set: ImageSet,
    options: SearchOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> SearchResult:
    """The groups that stay float so that int8 loses no more accuracy than the budget allows.

    The result is a JSON file with all scores. A group is the tensors that share a scale, with the
    layers that read them. Every score goes to a journal beside ``out``, from which a search that
    was killed continues; a search with another budget uses the same scores.

    ``image_set`` has calibration images, never those of the validation. ``progress`` is called with
    the number of scored graphs and the likely number of graphs in all.

    Raises:
        InputError: There are no images, an image is unusable, or the ranges are of another graph.
        CompileFailed: OpenVINO does not take a graph.
    """
    groups = groups_of(graph, ranges, options.quantize)
    provenance = search_provenance(graph, ranges, image_set, options)
    expected = 1 + len(search.candidates(groups)) + search.MIN_CANDIDATES
    with (
        Journal(journal_path(out), _key(provenance)) as journal,
        open_scorer(graph, ranges, image_set, options) as scorer,
    ):
        score = _with_progress(scorer, journal, lambda done: progress(done, max(done, expected)))
        result = search.search(
            groups, score, budget=options.budget, top1=scorer.top1, journal=journal
        )
    record = _record(result, groups, scorer, options.budget)
    return artifact.publish(
        SearchResult,
        out,
        search_record.to_json(record),
        provenance=provenance,
        counts={
            "num_kept": len(result.chosen.keep),
            "num_scored": len(result.points) + sum(one.harm is not None for one in result.ranking),
        },
        details=SearchDetails(keep=result.chosen.keep, is_met=result.is_met),
    )


def groups_of(
    graph: SimplifiedGraph, ranges: RangeTable, options: QuantizeOptions
) -> tuple[Group, ...]:
    """The groups of the int8 graph with these options, each with its expected noise.

    Raises:
        InputError: The ranges are of another graph, of a shard, stale or damaged.
    """
    table_for(graph, ranges)
    model = load_graph(graph.path)
    placement = place_pairs(model, policy_of(resolve(options, ranges)), options.keep)
    return estimate_groups(model, placement, ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Scores of the whole int8 graph and of its groups one by one, on ``num_images`` images.

    ``plain`` is the score of the graph with no group in float. ``ranking`` begins with the most
    harmful group. ``metric`` names the quantity that ``drop_pp`` and ``lost_pp`` give; it is "" for
    embeddings, which have no such metric.
    """

    plain: ScoredSet
    ranking: tuple[RankedGroup, ...]
    metric: str
    num_images: int


def sensitivity(
    graph: SimplifiedGraph,
    ranges: RangeTable,
    image_set: ImageSet,
    options: SearchOptions,
    *,
    progress: Progress = no_progress,
) -> Sensitivity:
    """The accuracy that the whole int8 graph loses, and that each candidate group loses alone.

    The budget in ``options`` is not used.

    Raises:
        InputError, CompileFailed: As in ``search_precision``.
    """
    groups = groups_of(graph, ranges, options.quantize)
    chosen = search.candidates(groups)
    with (
        tempfile.TemporaryDirectory(prefix="edge-inception-") as folder,
        Journal(Path(folder) / "journal", "") as journal,
        open_scorer(graph, ranges, image_set, options) as scorer,
    ):
        score = _with_progress(scorer, journal, lambda done: progress(done, 1 + len(chosen)))
        table = ScoreTable(groups, score, journal)
        ranking = search.rank_by_harm(table, chosen)
        if not scorer.metric:
            ranking = [structs.replace(one, lost_pp=None) for one in ranking]
        return Sensitivity(
            plain=table.score(frozenset()),
            ranking=tuple(ranking),
            metric=scorer.metric,
            num_images=scorer.num_images,
        )


def _with_progress(
    score: search.Score, journal: Journal, progress: Callable[[int], None]
) -> search.Score:
    """A function that calls ``progress`` with the number of known scores, and then ``score``."""

    def reported(keep: frozenset[str], rows: tuple[int, ...] | None) -> ImageDifferences:
        progress(journal.num_known)
        return score(keep, rows)

    return reported


def _key(provenance: Provenance) -> str:
    """Hash of everything that scores depend on: the provenance without the budget."""
    plain = stage.plain(provenance)
    plain["options"] = {k: v for k, v in plain["options"].items() if k != "budget"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _record(
    result: Result, groups: Sequence[Group], scorer: Scorer, budget: Budget
) -> SearchRecord:
    layers = {group.name: group.layers for group in groups}
    outcome = SearchOutcome(
        metric=scorer.metric,
        num_images=scorer.num_images,
        fp32_top1=scorer.top1 if scorer.is_labelled else None,
        max_drop_pp=budget.max_drop_pp,
        drop_type=budget.drop_type.value,
        allowed_pp=result.allowed_pp,
        is_met=result.is_met,
        why=result.why,
        chosen=result.chosen,
        kept={name: layers[name] for name in result.chosen.keep},
        front=result.front,
    )
    return SearchRecord(
        schema=search_record.SCHEMA,
        outcome=outcome,
        points=result.points,
        ranking=result.ranking,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _QuantizedCandidate:
    """A graph to be quantized with various groups in float, into a folder of temporary files."""

    graph: SimplifiedGraph
    ranges: RangeTable
    options: SearchOptions
    folder: Path

    def quantized(self, keep: frozenset[str]) -> TypedGraph:
        all_kept = tuple(sorted(keep.union(self.options.quantize.keep)))
        options = dataclasses.replace(self.options.quantize, keep=all_kept)
        return quantize(self.graph, self.ranges, options, self.folder / "int8.onnx")

    def fp32(self) -> TypedGraph:
        options = QuantizeOptions(precision=Precision.FP32)
        return quantize(self.graph, None, options, self.folder / "fp32.onnx")


class Scorer:
    """A ``search.Score`` on images that are decoded once.

    Attributes:
        top1: Share of the images, 0..1, that FP32 classifies correctly; 1 without labels.
        is_labelled: Whether labels are used.
        num_images: Number of images that score a graph.
    """

    def __init__(
        self, candidate: _QuantizedCandidate, items: Sequence[ImageItem], *, is_labelled: bool
    ) -> None:
        self._candidate, details = candidate, candidate.graph.details
        self._head, self._num_classes = details.head_text, details.num_classes
        self._images = _preprocessed(items, details.preprocess, candidate)
        self.is_labelled, self.num_images = is_labelled, len(items)
        self._fp32_logits = self._logits(candidate.fp32(), self._images)
        predicted = self._fp32_logits.argmax(axis=1)
        labels = [item.label for item in items]
        self._labels = np.array(labels, np.int64) if is_labelled else predicted.astype(np.int64)
        self._was_right = predicted == self._labels
        self.top1 = float(self._was_right.mean())

    @property
    def metric(self) -> str:
        """Name of the quantity that ``drop_pp`` gives; "" for embeddings, which have no classes."""
        if self._head == "embedding":
            return ""
        return "top-1 drop" if self.is_labelled else "disagreement with FP32"

    def __call__(self, keep: frozenset[str], rows: tuple[int, ...] | None) -> ImageDifferences:
        """Score the int8 graph with the groups ``keep`` in float, on the images ``rows`` or on all.

        Raises:
            CompileFailed: OpenVINO does not take the graph.
        """
        index = np.arange(self.num_images) if rows is None else np.array(rows)
        logits = self._logits(self._candidate.quantized(keep), self._images[index])
        fp32, int8 = outputs.comparable_engines(self._fp32_logits[index], logits, self._head)
        is_right = logits.argmax(axis=1) == self._labels[index]
        change = is_right.astype(np.int64) - self._was_right[index]
        return ImageDifferences(
            noise=np.sum((fp32 - int8) ** 2, axis=1),
            signal=np.sum(fp32**2, axis=1),
            change=change if self.metric else np.zeros_like(change),
        )

    def _logits(self, typed: TypedGraph, pixels: NDArray[Any]) -> NDArray[np.float32]:
        options = self._candidate.options
        threads = options.threads or usable_threads()
        size = possible_batch(typed.path, options.batch)
        with _openvino_errors():
            model = _openvino.read_graph(str(typed.path))
            model.reshape([size, *pixels.shape[1:]])
            compiled = _openvino.compile_graph(
                model,
                name=str(typed.path),
                precision="f32",
                threads=threads,
                batch=(size, size),
            )
            runner = _openvino.BlobRunner(
                compiled.blob, name=str(typed.path), precision="f32", threads=threads
            )
            logits: NDArray[np.float32] = batches.in_batches(
                lambda batch: batches.dense(runner.run(batch), self._num_classes),
                pixels,
                size,
                size,
            )
            runner.close()
        return logits


@contextmanager
def open_scorer(
    graph: SimplifiedGraph, ranges: RangeTable, image_set: ImageSet, options: SearchOptions
) -> Iterator[Scorer]:
    """A scorer with its temporary files, as a context.

    At most ``options.max_images`` images are used, in the order of their hashes, so that the order
    of the set does not matter.

    Raises:
        InputError: There are no images, or an image is unusable.
        CompileFailed: OpenVINO does not take the FP32 graph.
    """
    chosen = sorted(image_set.subset(options.max_images).items, key=lambda item: item.sha256)
    if not chosen:
        raise InputError(f"{image_set.name} has no images", hint="give at least one")
    is_labelled = image_set.is_labelled and image_set.classes == graph.details.classes
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        candidate = _QuantizedCandidate(
            graph=graph, ranges=ranges, options=options, folder=Path(folder)
        )
        yield Scorer(candidate, chosen, is_labelled=is_labelled)


def _preprocessed(
    items: Sequence[ImageItem], preprocess: Preprocess, candidate: _QuantizedCandidate
) -> NDArray[Any]:
    """All images preprocessed, in a memory-mapped file, so that a large set needs little memory.

    The disk space is allocated first, since a full disk would kill the process later. The name of
    the file is then removed, so that a killed process leaves no file.
    """
    path = candidate.folder / "images.npy"
    shape, dtype = (len(items), *preprocess.image_shape), np.dtype(preprocess.element)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    path.unlink()
    done = 0
    for batch in images.batches(items, preprocess, candidate.options.batch):
        pixels[done : done + len(batch.items)] = batch.images
        done += len(batch.items)
    return pixels


@contextmanager
def _openvino_errors() -> Iterator[None]:
    """Translate errors of OpenVINO into ours."""
    try:
        yield
    except _openvino.LibraryMissing as error:
        raise BackendMissing(str(error), hint="pip install 'edge-inception[cpu]'") from error
    except _openvino.Refusal as error:
        raise CompileFailed(str(error), hint=error.hint) from error
    except RuntimeError as error:
        reason = _openvino.error_text(error)
        raise CompileFailed(f"OpenVINO: {reason}", hint="simplify the graph again") from error
