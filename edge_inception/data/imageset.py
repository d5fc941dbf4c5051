"""Ordered sets of images with labels, from a folder, class folders, or a set file.

A set file, as in ``calibration/sets``, is JSON with ids, sha256, labels and splits of images that
are stored elsewhere (a pip package or a folder), so that images stay out of git and a changed image
is noticed. Unlike our other formats it may have unknown keys, in which people note licences and
grades. Hidden files and folders are ignored; links to files and to class folders are followed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_inception import records
from edge_inception.artifact import file_sha256
from edge_inception.errors import InputError
from edge_inception.records import Count, Sha256, Share

SCHEMA = 1
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jfif"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageItem:
    """One image: its file, the sha256 of its bytes, and its ``label``, a logit index or None.

    ``weight``, 0..1, is how far the label is trusted; training uses it, accuracy does not.
    """

    path: Path
    sha256: str
    label: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """An ordered set of images; ``classes`` are names by logit index, empty when unlabelled.

    ``num_left_out`` counts unusable images of the source that are not among ``items``.
    """

    name: str
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...] = ()
    num_left_out: int = 0

    @property
    def is_labelled(self) -> bool:
        """Whether every image has a label."""
        return all(item.label is not None for item in self.items)

    @property
    def sha256(self) -> str:
        """Digest of classes, hashes, labels, weights, ``num_left_out``; not of order or names."""
        lines = sorted(f"{item.sha256} {item.label} {item.weight}" for item in self.items)
        left_out = (f"left out {self.num_left_out}",) if self.num_left_out else ()
        text = "\n".join((*self.classes, *lines, *left_out))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def subset(self, num_images: int) -> ImageSet:
        """At most ``num_images`` images, in the set's order; each class keeps its share.

        The images of a class are chosen by hash, so the choice depends on no order and no name.

        Raises:
            ValueError: ``num_images`` is below 1.
        """
        if num_images < 1:
            raise ValueError(f"subset of {num_images} images, wanted at least 1")
        if num_images >= len(self.items):
            return self
        step = len(self.items) / num_images
        ranked = sorted(range(len(self.items)), key=self._rank)
        picked = sorted(ranked[int(index * step)] for index in range(num_images))
        return replace(self, items=tuple(self.items[index] for index in picked))

    def _rank(self, index: int) -> tuple[int, str]:
        item = self.items[index]
        return (-1 if item.label is None else item.label, item.sha256)


def open_set(location: Path, *, split: str = "", labels: Path | None = None) -> ImageSet:
    """Images at ``location``: a set file (.json) with a split, class folders, or a plain folder.

    Args:
        location: File or folder.
        split: Split of a set file, such as ``calibration``; must be empty for a folder.
        labels: Text file with one class name per line, line number = logit index; it may name more
            classes than there are folders. Without it class folders are indexed in sorted order.

    Raises:
        InputError: The location is missing, empty or unreadable, a split or class does not exist,
            one image is in two classes, or an image differs from the one in the set file.
    """
    try:
        return _open(location, split, labels)
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename or location}: {error.strerror}",
            hint="check its permissions",
        ) from error


def overlap(first: ImageSet, second: ImageSet) -> list[Path]:
    """Paths of images of ``first`` whose bytes are also those of an image of ``second``."""
    hashes = {item.sha256 for item in second.items}
    return [item.path for item in first.items if item.sha256 in hashes]


def _open(location: Path, split: str, labels: Path | None) -> ImageSet:
    if location.suffix == ".json":
        if labels:
            raise InputError(
                f"labels file {labels} given with {location}", hint="a set file has its own classes"
            )
        return _open_set_file(location, split)
    if split:
        raise InputError(
            f"split '{split}' asked of folder {location}", hint="only set files have splits"
        )
    if not location.is_dir():
        raise InputError(
            f"no such folder or set file: {location}", hint="give a folder of images or a .json set"
        )
    return _open_folder(location, read_labels(labels) if labels else ())


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names by logit index, one per line.

    Raises:
        InputError: The file is unreadable, has an empty line, or names a class twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(
            f"cannot read labels file {path}: {why}", hint="one class name per line, in UTF-8"
        ) from error
    names = [line.strip() for line in text.strip().split("\n")]
    if "" in names:
        raise InputError(
            f"{path} has no class name in line {names.index('') + 1}",
            hint="the line number is the logit index, so none may be empty",
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} names class '{twice}' twice", hint="one class name per line")
    return tuple(names)


def _open_folder(folder: Path, names: tuple[str, ...]) -> ImageSet:
    entries = _visible(folder)
    loose = [entry for entry in entries if _is_image(entry)]
    folders = {entry: _images_in(entry) for entry in entries if entry.is_dir()}
    if loose and any(folders.values()):
        raise InputError(
            f"{folder} holds both images and folders of images",
            hint="use class folders only (labelled) or images only (unlabelled)",
        )
    if loose:
        items = _hashed([(path, None) for path in loose])
        return ImageSet(name=folder.name, items=items, classes=names)
    if not any(folders.values()):
        raise InputError(f"no images in {folder}", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    classes = names or tuple(path.name for path in folders)
    _refuse_unknown_and_empty_folders(folders, classes, is_sorted_order=not names)
    files = [(file, classes.index(p.name)) for p, inside in folders.items() for file in inside]
    items = _hashed(files)
    _refuse_conflicting_labels(items)
    return ImageSet(name=folder.name, items=items, classes=classes)


def _refuse_unknown_and_empty_folders(
    folders: Mapping[Path, Sequence[Path]], classes: Sequence[str], *, is_sorted_order: bool
) -> None:
    """Refuse folders that are not a class, and empty ones where folder order sets the index."""
    unknown = [p.name for p, inside in folders.items() if inside and p.name not in classes]
    if unknown:
        raise InputError(
            f"class folders not in the labels file: {', '.join(unknown)}",
            hint=f"labels are: {', '.join(classes[:10])}",
        )
    empty = [path for path, inside in folders.items() if not inside]
    if empty and is_sorted_order:
        raise InputError(
            f"no images in {empty[0]}; whether it is a class decides the index of the others",
            hint="remove it, fill it, or name the classes in a labels file",
        )


def _refuse_conflicting_labels(items: Sequence[ImageItem]) -> None:
    first: dict[str, ImageItem] = {}
    for item in items:
        other = first.setdefault(item.sha256, item)
        if other.label != item.label:
            raise InputError(
                f"{item.path} has the bytes of {other.path}, which is in another class",
                hint="keep the one that is right",
            )


def _visible(folder: Path) -> list[Path]:
    """Entries that are not hidden, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_image(entry: Path) -> bool:
    """Whether the entry has an image's suffix; a broken link counts and is refused later."""
    return entry.suffix.lower() in SUFFIXES and not entry.is_dir()


def _images_in(folder: Path) -> list[Path]:
    """Images in a class folder and its subfolders; links to subfolders are not followed."""
    images: list[Path] = []
    for entry in _visible(folder):
        if entry.is_dir() and not entry.is_symlink():
            images += _images_in(entry)
        elif _is_image(entry):
            images.append(entry)
    return images


def _hashed(files: Sequence[tuple[Path, int | None]]) -> tuple[ImageItem, ...]:
    with ThreadPoolExecutor() as pool:
        digests = pool.map(file_sha256, (path for path, _ in files))
        return tuple(
            ImageItem(path=path, sha256=digest, label=label)
            for (path, label), digest in zip(files, digests, strict=True)
        )


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the images are: in ``folder``, relative to the set file or to Python ``module``.

    ``distribution`` is the name by which pip installs the module.
    """

    folder: str = "."
    module: str | None = None
    distribution: str | None = None


class _SetImage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    sha256: Sha256
    split: str
    label: Count | None
    weight: Share = 1.0


class _SetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A set file; other keys, such as licence and grades, are ignored."""

    schema: Literal[1]
    name: str
    classes: tuple[str, ...]
    source: _Source
    images: tuple[Any, ...]


def _open_set_file(path: Path, split: str) -> ImageSet:
    hint = "wanted schema, name, classes, source and images, see calibration/README.md"
    value = records.read_json(path, hint=hint)
    where = f"{path} is not a set file of schema {SCHEMA}"
    record = records.convert(_SetFile, value, where=where, hint=hint)
    images = _set_images(path, record)
    splits = sorted({image.split for image in images})
    if split not in splits:
        raise InputError(
            f"{path} has no split '{split}'" if split else f"{path} has splits, and none is named",
            hint=f"splits: {', '.join(splits)}; name one with --split, --calibration-split, "
            "--validation-split or --data-split",
        )
    root = _locate(path, record.source)
    chosen = [image for image in images if image.split == split]
    origin = record.source.distribution
    hint = f"pip install {origin}" if origin else "restore the original images"
    absent = [image.id for image in chosen if not (root / image.id).is_file()]
    if absent:
        raise InputError(
            f"{len(absent)} images of {path.name} are not in {root}, first {absent[0]}", hint=hint
        )
    items = _hashed([(root / image.id, image.label) for image in chosen])
    for item, image in zip(items, chosen, strict=True):
        if item.sha256 != image.sha256:
            raise InputError(f"{item.path} is not the image {path.name} was made from", hint=hint)
    _refuse_conflicting_labels(items)
    weighted = tuple(
        replace(item, weight=image.weight) for item, image in zip(items, chosen, strict=True)
    )
    return ImageSet(name=f"{record.name}/{split}", items=weighted, classes=record.classes)


def _set_images(path: Path, record: _SetFile) -> list[_SetImage]:
    last = len(record.classes) - 1
    hint = f"label is 0 to {last} or null, weight 0 to 1"
    images = []
    for number, value in enumerate(record.images):
        where = f"{path}: image {number} is not a record of id, sha256, split, label and weight"
        image = records.convert(_SetImage, value, where=where, hint=hint)
        if image.label is not None and image.label > last:
            raise InputError(f"{where}: its label is {image.label}", hint=hint)
        images.append(image)
    return images


def _locate(path: Path, source: _Source) -> Path:
    """Folder the image ids are relative to: inside a pip package, or next to the set file."""
    if source.module is None:
        return path.parent / source.folder
    package = source.distribution or source.module
    try:
        spec = importlib.util.find_spec(source.module)
    except (ImportError, ValueError):  # the parent of a dotted name is absent, or the name empty
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"images of {path.name} come from package '{package}', not installed",
            hint=f"pip install {package}",
        )
    return Path(spec.submodule_search_locations[0]) / source.folder
