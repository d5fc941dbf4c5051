"""Which images, in which order, with which labels: a folder, class folders, or a set file.

A set file is JSON in ``calibration/sets``: ids, sha256, classes and splits of images that live
elsewhere (a pip package or a folder), so images stay out of git and a changed image is noticed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_inception.artifact import file_sha256
from edge_inception.errors import InputError

SCHEMA = 1
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageItem:
    """One image: its file, sha256 of the bytes, logit index of its class (None: unlabelled).

    ``weight`` is how much the label is trusted, 0..1; training uses it, accuracy does not.
    """

    path: Path
    sha256: str
    label: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """An ordered set of images; ``classes`` are names by logit index, empty when unlabelled."""

    name: str
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...] = ()

    @property
    def is_labelled(self) -> bool:
        """Whether every image has a label."""
        return all(item.label is not None for item in self.items)

    @property
    def sha256(self) -> str:
        """Digest of image hashes and labels, independent of order and of file names."""
        lines = sorted(f"{item.sha256} {item.label} {item.weight}" for item in self.items)
        return hashlib.sha256("\n".join((*self.classes, *lines)).encode()).hexdigest()

    def subset(self, num_images: int) -> ImageSet:
        """At most ``num_images`` images, spread evenly over the set's order."""
        if num_images >= len(self.items):
            return self
        step = len(self.items) / num_images
        picked = tuple(self.items[int(index * step)] for index in range(num_images))
        return replace(self, items=picked)


def open_set(location: Path, *, split: str = "", labels: Path | None = None) -> ImageSet:
    """Images at ``location``: a set file (.json) with a split, class folders, or a plain folder.

    Args:
        location: File or folder.
        split: Split of a set file, such as ``calibration``; must be empty for a folder.
        labels: Text file with one class name per line, line number = logit index; without it class
            folders are indexed in sorted order.

    Raises:
        InputError: Missing, empty, unreadable, a split or class that does not exist, or an image
            whose bytes are not those the set file was made from.
    """
    if location.suffix == ".json":
        return _open_set_file(location, split)
    if split:
        raise InputError(
            f"split '{split}' asked of folder {location}", hint="only set files have splits"
        )
    if not location.is_dir():
        raise InputError(
            f"no such folder or set file: {location}", hint="give a folder of images or a .json set"
        )
    return _open_folder(location, _read_labels(labels) if labels else ())


def overlap(first: ImageSet, second: ImageSet) -> list[Path]:
    """Files of ``first`` whose bytes also occur in ``second``."""
    theirs = {item.sha256 for item in second.items}
    return [item.path for item in first.items if item.sha256 in theirs]


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read labels file {path}", hint="one class name per line"
        ) from error
    names = [name for name in names if name]
    if len(set(names)) != len(names):
        raise InputError(f"{path} names a class twice", hint="one class name per line, each once")
    return tuple(names)


def _open_folder(folder: Path, names: tuple[str, ...]) -> ImageSet:
    class_folders = sorted(p for p in folder.iterdir() if p.is_dir() and _images_in(p))
    loose = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if class_folders and loose:
        raise InputError(
            f"{folder} holds both images and folders of images",
            hint="use class folders only (labelled) or images only (unlabelled)",
        )
    if not class_folders and not loose:
        raise InputError(f"no images in {folder}", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    if loose:
        return ImageSet(name=folder.name, items=_hashed([(path, None) for path in loose]))
    classes = names or tuple(path.name for path in class_folders)
    strangers = [path.name for path in class_folders if path.name not in classes]
    if strangers:
        raise InputError(
            f"class folders not in the labels file: {', '.join(strangers)}",
            hint=f"labels are: {', '.join(classes[:10])}",
        )
    files = [(file, classes.index(p.name)) for p in class_folders for file in _images_in(p)]
    return ImageSet(name=folder.name, items=_hashed(files), classes=classes)


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _hashed(files: Sequence[tuple[Path, int | None]]) -> tuple[ImageItem, ...]:
    with ThreadPoolExecutor() as pool:
        digests = pool.map(file_sha256, (path for path, _ in files))
        return tuple(
            ImageItem(path=path, sha256=digest, label=label)
            for (path, label), digest in zip(files, digests, strict=True)
        )


def _open_set_file(path: Path, split: str) -> ImageSet:
    record = _read_set_file(path)
    splits = sorted({image["split"] for image in record["images"]})
    if split not in splits:
        raise InputError(f"{path} has no split '{split}'", hint=f"splits: {', '.join(splits)}")
    root = _locate(path, record["source"])
    chosen = [image for image in record["images"] if image["split"] == split]
    items = _hashed([(root / image["id"], image["label"]) for image in chosen])
    for item, image in zip(items, chosen, strict=True):
        if item.sha256 != image["sha256"]:
            raise InputError(
                f"{item.path} is not the image {path.name} was made from",
                hint=f"install {record['source'].get('distribution', 'the original images')}",
            )
    weighted = tuple(
        replace(item, weight=image.get("weight", 1.0))
        for item, image in zip(items, chosen, strict=True)
    )
    return ImageSet(
        name=f"{record['name']}/{split}", items=weighted, classes=tuple(record["classes"])
    )


def _read_set_file(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read set file {path}", hint="check the path") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not JSON: {error}", hint="see calibration/README.md"
        ) from error
    missing = {"schema", "name", "classes", "source", "images"} - set(record)
    if missing or record["schema"] != SCHEMA:
        raise InputError(
            f"{path} is not a set file of schema {SCHEMA}",
            hint=f"missing: {', '.join(sorted(missing)) or 'nothing; wrong schema'}",
        )
    return record


def _locate(path: Path, source: dict[str, str]) -> Path:
    """Folder the image ids are relative to: inside a pip package, or next to the set file."""
    module = source.get("module")
    if module is None:
        return path.parent / source.get("folder", ".")
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"images of {path.name} come from package '{source['distribution']}', not installed",
            hint=f"pip install {source['distribution']}",
        )
    return Path(found.submodule_search_locations[0]) / source.get("folder", ".")
