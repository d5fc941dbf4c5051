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
_COUNTER = ".num_batches_tracked"
_FACTOR = re.compile(r".*bn\.weight")
_OPTIONAL = (
    *AUXILIARY_PREFIXES,
    "logits.",
)  # "logits": FaceNet's classifier, which no embedding needs
_MLP = re.compile(r"(?P<head>.+)\.(?P<index>\d+)\.(?:weight|bias)")
_MLP_LAST = ".3.weight"  # of our two-layer head: linear, ReLU, dropout, linear


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

    ``found`` maps our key to (name in the key map, key in the file). ``missing`` lists our keys
    that the file lacks, ``unexpected`` the file's keys that the model lacks, and ``left_out`` our
    keys of optional heads that the model is built without. ``options`` are the family's options of
    the model, replaced by the user's where given.
    """

    family: CheckpointFamily
    key_map: KeyMap
    options: Mapping[str, Any]
    found: Mapping[str, tuple[str, str]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    left_out: tuple[str, ...]
    num_expected: int
    notes: tuple[str, ...]

    @property
    def num_wrong(self) -> int:
        """Number of missing and unexpected keys; the checkpoint fits if it is 0."""
        return len(self.missing) + len(self.unexpected)


def candidates(spec: ModelSpec, asked: str) -> tuple[CheckpointFamily, ...]:
    """The families of ``spec`` to try: all where ``asked`` is ``auto``, else the one of that name.

    The family ``native`` (our own key names) comes last where ``spec`` does not list it.

    Raises:
        InputError: There is no such family, or the model has none of that name.
    """
    known = {family.name: family for family in spec.families}
    known.setdefault(NATIVE, CheckpointFamily(name=NATIVE, preprocess=spec.preprocess))
    if asked == AUTO:
        return tuple(known.values())
    if asked not in keymaps.families():
        raise unknown("checkpoint format", asked, (AUTO, *keymaps.families()))
    if asked not in known:
        raise InputError(
            f"{spec.name} has no checkpoints of the family '{asked}'",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return (known[asked],)


def fit(
    family: CheckpointFamily,
    key_map: KeyMap,
    options: Mapping[str, Any],
    keys: Iterable[str],
    expected: Collection[str],
) -> Fit:
    """How well a file's ``keys``, read by ``key_map``, fit the ``expected`` keys of the model."""
    reading = key_map.read(keys)
    found: dict[str, tuple[str, str]] = {}
    unexpected: list[str] = []
    for name, key in reading.keys.items():
        ours = key_map.ours(name)
        if ours is None:
            unexpected.append(key)
        else:
            found[ours] = (name, key)
    found = _with_mlp_indices(found, expected)
    extra = [ours for ours in found if ours not in expected]
    left_out = tuple(ours for ours in extra if ours.startswith(_OPTIONAL))
    unexpected += [found[ours][1] for ours in extra if ours not in left_out]
    has_factors = key_map.has_gamma or any(map(_FACTOR.fullmatch, found))
    missing = tuple(
        key
        for key in expected
        if key not in found
        and not key.endswith(_COUNTER)
        and (has_factors or not _FACTOR.fullmatch(key))
    )
    return Fit(
        family=family,
        key_map=key_map,
        options=options,
        found={ours: found[ours] for ours in expected if ours in found},
        missing=missing,
        unexpected=tuple(unexpected),
        left_out=left_out,
        num_expected=len(expected),
        notes=reading.notes,
    )


def _with_mlp_indices(
    found: Mapping[str, tuple[str, str]], expected: Collection[str]
) -> dict[str, tuple[str, str]]:
    """``found`` with the keys of a two-layer head, such as ``fc.0`` and ``fc.2``, renamed to ours.

    Ours are ``fc.0`` and ``fc.3``. Publishers number the two linear layers differently, since they
    count other layers without weights between them.
    """
    heads = [key.removesuffix(_MLP_LAST) for key in expected if key.endswith(_MLP_LAST)]
    renamed = dict(found)
    for head in heads:
        matched = [m for m in map(_MLP.fullmatch, found) if m and m["head"] == head]
        indices = sorted({int(m["index"]) for m in matched})
        if len(indices) != 2:  # noqa: PLR2004 -- two linear layers
            continue
        ours = dict(zip(indices, (0, 3), strict=True))
        for m in matched:
            renamed.pop(m[0])
        for m in matched:
            part = m[0].rpartition(".")[2]
            renamed[f"{head}.{ours[int(m['index'])]}.{part}"] = found[m[0]]
    return renamed


def choose(path: Path, spec: ModelSpec, fits: Sequence[Fit], evidence: Evidence) -> tuple[Fit, str]:
    """The fit of the checkpoint's family, and a note on how it was recognised.

    Args:
        path: Checkpoint, for messages.
        spec: The model.
        fits: The fit of each family, the preferred family first.
        evidence: Facts about the file other than its keys.

    Raises:
        InputError: No family fits, or several fit that make the network compute different values.
    """
    fitting = [item for item in fits if not item.num_wrong]
    if not fitting:
        raise _no_fit(path, spec, fits, evidence)
    if len(fits) == 1:
        return fitting[0], f"family {fitting[0].family.name}, as asked for"
    for is_likely, reason in _CLUES:
        likely = [item for item in fitting if is_likely(item, evidence, spec)]
        if len(likely) == 1:
            return likely[0], f"family {likely[0].family.name}, {reason}"
        fitting = likely or fitting
    published = [item for item in fitting if item.family in spec.families] or fitting
    first, *others = published
    if not others:
        return first, f"family {first.family.name}, by its keys"
    names = [item.family.name for item in published]
    if any(_computation(item) != _computation(first) for item in others):
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


def _computation(item: Fit) -> tuple[Any, ...]:
    """Options and normalisation, which decide what values the network computes on one crop."""
    preprocess = item.family.preprocess
    return dict(item.options), preprocess.mean, preprocess.std, preprocess.channel_order


def _is_native(item: Fit, evidence: Evidence, _: ModelSpec) -> bool:
    return evidence.is_trained_here and item.family.name == NATIVE


def _is_published(item: Fit, evidence: Evidence, _: ModelSpec) -> bool:
    """Whether a published file has the file's hash in its name, as torchvision's files do."""
    named = [re.search(r"-([0-9a-f]{8,})\.pth$", claim.url) for claim in item.family.published]
    return any(match and evidence.sha256.startswith(match[1]) for match in named)


def _has_background(item: Fit, evidence: Evidence, spec: ModelSpec) -> bool:
    rows = {shape[0] for key, shape in _head(item, evidence).items() if shape}
    extra = item.family.num_background
    return bool(extra) and rows == {spec.num_classes + extra}


def _head(item: Fit, evidence: Evidence) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the model's last two tensors, which belong to its head."""
    last = list(item.found.values())[-2:]
    return {key: evidence.shapes[key] for _, key in last}


def _has_auxiliary(item: Fit, _: Evidence, __: ModelSpec) -> bool:
    return item.key_map.has_auxiliary and any(
        key.startswith(AUXILIARY_PREFIXES) for key in (*item.left_out, *item.found)
    )


# Pairs of a test whether a family is likely, and the reason to report; the strongest clue first.
_CLUES: tuple[tuple[Callable[[Fit, Evidence, ModelSpec], bool], str], ...] = (
    (_is_native, "written by edge-inception train"),
    (_is_published, "the published file by its hash"),
    (_has_background, "by the row for background in its head"),
    (_has_auxiliary, "by its auxiliary head"),
)


def _no_fit(path: Path, spec: ModelSpec, fits: Sequence[Fit], evidence: Evidence) -> InputError:
    fewest = min(item.num_wrong for item in fits)
    nearest, *others = (item for item in fits if item.num_wrong == fewest)
    for is_likely, _ in reversed(_CLUES if others else ()):
        likely = (item for item in (nearest, *others) if is_likely(item, evidence, spec))
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
        hint=f"wanted the names of {', '.join(item.family.name for item in fits)}",
    )
