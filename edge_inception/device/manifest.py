"""A bundle's manifest: reading it, and refusing a bundle that is not what was made.

``manifest.json`` lists the sha256 of every other file and carries a digest of itself, so that any
change is noticed, by accident or by hand. Whoever changes a file on purpose can also change the
digests: only a signature checked with a key that came another way stops that.
This file travels to devices: Python 3.6 syntax, standard library.
"""

import hashlib
import json
import os
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

if __package__:
    from edge_inception.device.errors import Refusal
else:
    from errors import Refusal  # type: ignore[import-not-found,no-redef]

SCHEMA = "edge-inception/bundle"
SCHEMA_VERSION = 1
FILE = "manifest.json"
SIGNATURE = "manifest.json.sig"
ENGINES = "engine"  # made on the device; not part of the bundle
TIMING_CACHE = "timing.cache"  # beside the engines: a later build is faster with it
VERSION_DIGITS = 12
_BLOCK_BYTES = 1 << 20
_CODE = (".py", ".pyc", ".so", ".sh", ".pth")
_KEYS = {
    "schema": str, "schema_version": int, "name": str, "version": str, "made_with": dict,
    "model": str, "precision": str, "head": str, "num_classes": int, "preprocess": dict,
    "target": dict, "graphs": list, "build": dict, "gates": dict, "golden": dict, "files": dict,
    "sha256": str,
}  # fmt: skip
_COPY_AGAIN = "copy the bundle to the device again, or make it again: edge-inception bundle"


class Bundle(NamedTuple):
    """A bundle whose files are those that its manifest lists."""

    root: str
    record: Dict[str, Any]

    def path(self, name: str) -> str:
        """Where the file of that name in the bundle is."""
        return os.path.join(self.root, *name.split("/"))

    @property
    def target(self) -> Dict[str, Any]:
        """The hardware it is for."""
        found: Dict[str, Any] = self.record["target"]
        return found


def file_sha256(path: str) -> str:
    """Hex sha256 of a file's bytes; OSError as ``open`` raises it."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def version_of(record: Mapping[str, Any]) -> str:
    """The bundle's version: a digest of all that its manifest says, its files and its choices."""
    return digest_of(record, without=("sha256", "version"))[:VERSION_DIGITS]


def digest_of(record: Mapping[str, Any], without: Iterable[str] = ("sha256",)) -> str:
    """sha256 of the manifest less its own ``sha256``, in one spelling whatever wrote it."""
    rest = {name: value for name, value in record.items() if name not in without}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_bundle(root: str) -> Bundle:
    """The bundle in the folder ``root``.

    Raises:
        Refusal: The manifest cannot be read, is of another schema, or a file is missing, was
            changed, or is code that the manifest does not list.
    """
    record = _read(os.path.join(root, FILE))
    _require_schema(record)
    if digest_of(record) != record["sha256"] or version_of(record) != record["version"]:
        raise Refusal("{} was changed after the bundle was made".format(FILE), _COPY_AGAIN)
    bundle = Bundle(root, record)
    for name, entry in sorted(record["files"].items()):
        _require_same(bundle.path(name), name, entry)
    strangers = _strangers(root, record["files"])
    if strangers:
        raise Refusal(
            "{} is code that the manifest does not list".format(strangers[0]),
            "move it out of the bundle, a virtual environment too: Python could run it in place "
            "of the bundle's own",
        )
    return bundle


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise Refusal(
            "cannot read {}: {}".format(path, error.strerror),
            "run device.py of an unpacked bundle: tar xzf BUNDLE.tar.gz",
        ) from error
    except ValueError as error:
        raise Refusal("{} is not JSON: {}".format(path, error), _COPY_AGAIN) from error


def _require_schema(record: Any) -> None:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise Refusal("{} is not the manifest of a bundle".format(FILE), _COPY_AGAIN)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise Refusal(
            "{} has schema version {}, this device.py reads {}".format(
                FILE, record.get("schema_version"), SCHEMA_VERSION
            ),
            "use the device.py that came with the bundle",
        )
    wrong = [key for key, kind in _KEYS.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise Refusal("{} lacks {}".format(FILE, ", ".join(sorted(wrong))), _COPY_AGAIN)


def _require_same(path: str, name: str, entry: Mapping[str, Any]) -> None:
    try:
        size = os.path.getsize(path)
        found = file_sha256(path) if size == entry["bytes"] else ""
    except OSError as error:
        raise Refusal(
            "{} of the bundle cannot be read: {}".format(name, error.strerror), _COPY_AGAIN
        ) from error
    if size != entry["bytes"]:
        raise Refusal(
            "{} was changed: {} bytes, the manifest says {}".format(name, size, entry["bytes"]),
            _COPY_AGAIN,
        )
    if found != entry["sha256"]:
        raise Refusal(
            "{} was changed: sha256 {}, the manifest says {}".format(
                name, found[:VERSION_DIGITS], str(entry["sha256"])[:VERSION_DIGITS]
            ),
            _COPY_AGAIN,
        )


def _strangers(root: str, files: Mapping[str, Any]) -> List[str]:
    """Files beside the bundle's own that Python or a shell could run instead of them."""
    found = []
    for folder, folders, names in os.walk(root):
        if folder == root and ENGINES in folders:
            folders.remove(ENGINES)
        for name in names:
            inside = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
            if name.endswith(_CODE) and inside not in files:
                found.append(inside)
    return sorted(found)


def numbers(version: str) -> Tuple[int, ...]:
    """``"10.3.0.30"`` as (10, 3, 0, 30), which compares as versions do."""
    parts = []
    for part in version.split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def is_within(version: str, oldest: Optional[str], newest: Optional[str]) -> bool:
    """Whether oldest <= version <= newest, to as many places as the bounds have."""
    here = numbers(version)
    least, most = numbers(oldest or ""), numbers(newest or "")
    return here[: len(least)] >= least and (not most or here[: len(most)] <= most)


def require_tensorrt(bundle: Bundle, version: str) -> None:
    """Refuse a TensorRT that the bundle is not for.

    Raises:
        Refusal: Out of the manifest's range.
    """
    oldest, newest = bundle.target["tensorrt"]
    if not is_within(version, oldest, newest):
        raise Refusal(
            "this bundle is for TensorRT {} to {}, here is {}".format(oldest, newest, version),
            "make a bundle for this device: edge-inception targets shows which, then "
            "edge-inception bundle --target NAME",
        )


def graph_for(bundle: Bundle, version: Optional[str]) -> Dict[str, Any]:
    """The graph for a TensorRT version, by the bounds of each; None stands for another library.

    Raises:
        Refusal: None of the bundle's graphs is for it.
    """
    graphs: List[Dict[str, Any]] = bundle.record["graphs"]
    graph: Optional[Dict[str, Any]] = graph_of(graphs, version)
    if graph is None:
        raise Refusal(
            "the bundle has no graph for TensorRT {}: {}".format(version, _bounds(graphs)),
            "make a bundle for this device: edge-inception bundle --target NAME",
        )
    return graph


def graph_of(graphs: Iterable[Any], version: Optional[str]) -> Any:
    """The first of ``graphs`` that is for a TensorRT version; None where there is none."""
    return next((graph for graph in graphs if _is_for(graph, version)), None)


def _is_for(graph: Mapping[str, Any], version: Optional[str]) -> bool:
    if version is None:
        return bool(graph["typing"] == "strong")
    least, below = graph["tensorrt"]
    is_old_enough = not below or numbers(version)[: len(numbers(below))] < numbers(below)
    return is_old_enough and is_within(version, least, None)


def _bounds(graphs: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(
        "{} is for {} up to {}".format(
            g["typing"], g["tensorrt"][0] or "any", g["tensorrt"][1] or "any"
        )
        for g in graphs
    )
