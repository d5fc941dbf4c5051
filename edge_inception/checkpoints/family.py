"""Recognition of a checkpoint's family, which is its publisher, such as timm or Keras.

The family is recognised by the keys of the state dict and, where families share keys, by further
evidence. Where several families fit and differ in resizing alone, the first in
``ModelSpec.families`` is taken, and a note names the others. Families that differ in options or in
normalisation are never guessed: such a checkpoint is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_inception.checkpoints import keymaps
from edge_inception.checkpoints.keymaps._keymap import AUXILIARY_PREFIXES, KeyMap
from edge_inception.errors import InputError, listed, unknown
from edge_inception.spec import CheckpointFamily, ModelSpec

AUTO, NATIVE = "auto", "native"
_BATCH_COUNTER = ".num_batches_tracked"
_GAMMA = re.compile(r".*bn\.weight")
_FACENET_CLASSIFIER = "logits."  # an embedding has no use for it
_MLP_LAYER = re.compile(r"(?P<head>.+)\.(?P<index>\d+)\.(?P<tensor>weight|bias)")
_MLP_LAST_WEIGHT = ".3.weight"  # our two-layer head is: linear, ReLU, dropout, linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts other than the names of the keys that may identify a file's family.

    ``sha256`` is the file's, ``shapes`` maps a key to its tensor's shape, and ``is_trained_here``
    is whether the file has the metadata of ``edge-inception train``.
    """

    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    is_trained_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well the keys of a checkpoint fit one family.

    ``matches`` maps a key of the model to (name in the key map, key in the file). ``missing`` lists
    the model's keys that the file lacks, ``unexpected`` the file's keys that the model lacks, and
    ``left_out`` the model's keys of optional heads that it is built without. ``options`` are the
    family's options of the model, replaced by the user's where given.
    """

    family: CheckpointFamily
    key_map: KeyMap
    options: Mapping[str, Any]
    matches: Mapping[str, tuple[str, str]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    left_out: tuple[str, ...]
    num_expected: int
    notes: tuple[str, ...]

    @property
    def num_mismatches(self) -> int:
        """Number of missing and unexpected keys; the checkpoint fits if it is 0."""
        return len(self.missing) + len(self.unexpected)


def select_families(spec: ModelSpec, name: str) -> tuple[CheckpointFamily, ...]:
    """The families of ``spec`` to try: all if ``name`` is ``auto``, else the one of that name.

    The family ``native`` (our own key names) comes last where ``spec`` does not list it.

    Raises:
        InputError: There is no such family, or the model has none of that name.
    """
    known = {family.name: family for family in spec.families}
    known.setdefault(NATIVE, CheckpointFamily(name=NATIVE, preprocess=spec.preprocess))
    if name == AUTO:
        return tuple(known.values())
    if name not in keymaps.families():
        raise unknown("checkpoint format", name, (AUTO, *keymaps.families()))
    if name not in known:
        raise InputError(
            f"{spec.name} has no checkpoints of the family '{name}'",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return (known[name],)


def fit_keys(
    family: CheckpointFamily,
    key_map: KeyMap,
    options: Mapping[str, Any],
    keys: Iterable[str],
    expected: Collection[str],
) -> Fit:
    """How well a file's ``keys``, translated by ``key_map``, fit the ``expected`` model keys."""
    normalized = key_map.normalize(keys)
    matches: dict[str, tuple[str, str]] = {}
    unexpected: list[str] = []
    for name, key in normalized.keys.items():
        model_key = key_map.model_key(name)
        if model_key is None:
            unexpected.append(key)
        else:
            matches[model_key] = (name, key)
    matches = _renumber_mlp(matches, expected)
    extra = [model_key for model_key in matches if model_key not in expected]
    left_out = tuple(k for k in extra if k.startswith((*AUXILIARY_PREFIXES, _FACENET_CLASSIFIER)))
    unexpected += [matches[model_key][1] for model_key in extra if model_key not in left_out]
    has_gamma = key_map.requires_gamma or any(map(_GAMMA.fullmatch, matches))
    missing = tuple(
        key
        for key in expected
        if key not in matches
        and not key.endswith(_BATCH_COUNTER)
        and (has_gamma or not _GAMMA.fullmatch(key))
    )
    return Fit(
        family=family,
        key_map=key_map,
        options=options,
        matches={key: matches[key] for key in expected if key in matches},
        missing=missing,
        unexpected=tuple(unexpected),
        left_out=left_out,
        num_expected=len(expected),
        notes=normalized.notes,
    )


def _renumber_mlp(
    matches: Mapping[str, tuple[str, str]], expected: Collection[str]
) -> dict[str, tuple[str, str]]:
    """``matches`` with a two-layer head's keys, such as ``fc.0`` and ``fc.2``, renamed to ours.

    Ours are ``fc.0`` and ``fc.3``. Publishers number the two linear layers differently, since they
    count other layers without weights between them.
    """
    heads = [k.removesuffix(_MLP_LAST_WEIGHT) for k in expected if k.endswith(_MLP_LAST_WEIGHT)]
    renamed = dict(matches)
    for head in heads:
        layers = [m for m in map(_MLP_LAYER.fullmatch, matches) if m and m["head"] == head]
        indices = sorted({int(m["index"]) for m in layers})
        if len(indices) != 2:  # noqa: PLR2004 -- two linear layers
            continue
        our_index = dict(zip(indices, (0, 3), strict=True))
        for m in layers:
            renamed.pop(m[0])
        renamed |= {
            f"{head}.{our_index[int(m['index'])]}.{m['tensor']}": matches[m[0]] for m in layers
        }
    return renamed


def choose_fit(
    path: Path, spec: ModelSpec, fits: Sequence[Fit], evidence: Evidence
) -> tuple[Fit, str]:
    """The fit of the checkpoint's family, and a note on how it was recognised.

    Args:
        path: Checkpoint, for messages.
        spec: The model.
        fits: The fit of each family, the preferred family first.
        evidence: Facts about the file other than its keys.

    Raises:
        InputError: No family fits, or several fit that make the network compute different values.
    """
    fitting = [fit for fit in fits if not fit.num_mismatches]
    if not fitting:
        raise _no_fit(path, spec, fits, evidence)
    if len(fits) == 1:
        return fitting[0], f"family {fitting[0].family.name}, as asked for"
    for is_likely, reason in _CLUES:
        likely = [fit for fit in fitting if is_likely(fit, evidence, spec)]
        if len(likely) == 1:
            return likely[0], f"family {likely[0].family.name}, {reason}"
        fitting = likely or fitting
    published = [fit for fit in fitting if fit.family in spec.families] or fitting
    first, *others = published
    if not others:
        return first, f"family {first.family.name}, by its keys"
    names = [fit.family.name for fit in published]
    if any(_computation(fit) != _computation(first) for fit in others):
        raise InputError(
            f"{path} has the keys of several families of {spec.name}, which need other options or "
            f"pixels: {', '.join(names)}",
            hint=f"say whose it is: --checkpoint-format {' or '.join(names)}",
        )
    alternatives = f"{', '.join(names[1:])} share{'s' if len(others) == 1 else ''}"
    return first, (
        f"family {first.family.name} by its keys, which {alternatives}; they differ in how images "
        f"are resized (--checkpoint-format)"
    )


def _computation(fit: Fit) -> tuple[Any, ...]:
    """Options and normalisation, which decide what values the network computes on one crop."""
    preprocess = fit.family.preprocess
    return dict(fit.options), preprocess.mean, preprocess.std, preprocess.channel_order


def _is_native(fit: Fit, evidence: Evidence, _: ModelSpec) -> bool:
    return evidence.is_trained_here and fit.family.name == NATIVE


def _is_published(fit: Fit, evidence: Evidence, _: ModelSpec) -> bool:
    """Whether the name of a published file has the file's hash, as torchvision's names do."""
    matches = [re.search(r"-([0-9a-f]{8,})\.pth$", item.url) for item in fit.family.published]
    return any(match and evidence.sha256.startswith(match[1]) for match in matches)


def _has_background(fit: Fit, evidence: Evidence, spec: ModelSpec) -> bool:
    """Whether the last two tensors, which belong to the head, have rows for the background."""
    shapes = [evidence.shapes[key] for _, key in list(fit.matches.values())[-2:]]
    rows = {shape[0] for shape in shapes if shape}
    extra = fit.family.num_background
    return bool(extra) and rows == {spec.num_classes + extra}


def _has_auxiliary(fit: Fit, _: Evidence, __: ModelSpec) -> bool:
    return fit.key_map.has_auxiliary and any(
        key.startswith(AUXILIARY_PREFIXES) for key in (*fit.left_out, *fit.matches)
    )


# Pairs of a test whether a family is likely, and the reason to report; the strongest clue first.
_CLUES: tuple[tuple[Callable[[Fit, Evidence, ModelSpec], bool], str], ...] = (
    (_is_native, "written by edge-inception train"),
    (_is_published, "the published file by its hash"),
    (_has_background, "by the row for background in its head"),
    (_has_auxiliary, "by its auxiliary head"),
)


def _no_fit(path: Path, spec: ModelSpec, fits: Sequence[Fit], evidence: Evidence) -> InputError:
    fewest = min(fit.num_mismatches for fit in fits)
    nearest, *others = (fit for fit in fits if fit.num_mismatches == fewest)
    for is_likely, _ in reversed(_CLUES if others else ()):
        likely = (fit for fit in (nearest, *others) if is_likely(fit, evidence, spec))
        nearest = next(likely, nearest)
    parts = []
    if nearest.missing:
        count = f"{len(nearest.missing)} of {nearest.num_expected} keys missing"
        parts.append(f"{count} ({listed(nearest.missing)})")
    if nearest.unexpected:
        parts.append(f"{len(nearest.unexpected)} unexpected ({listed(nearest.unexpected)})")
    return InputError(
        f"{path} does not fit {spec.name}: nearest family {nearest.family.name}: "
        f"{'; '.join(parts)}",
        hint=f"wanted the names of {', '.join(fit.family.name for fit in fits)}",
    )
