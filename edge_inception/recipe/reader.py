"""Recipe TOML to records: one strict reader.

Paths in a recipe are relative to the recipe file; ``build.out`` is relative to the working folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_inception.errors import InputError, known_names
from edge_inception.recipe.sections import (
    NUMBER,
    PREPROCESS_KEYS,
    SEARCH_KEYS,
    budget,
    fold,
    head,
    one_of,
    preprocess_changes,
)
from edge_inception.spec import Budget, Gates, Head, Precision, ShapeProfile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = 1
FILE_NAME = "edge-inception.toml"
Table = dict[str, Any]

_KEYS: Mapping[str, Mapping[str, Any]] = {
    "": {"schema": int},
    "model": {
        "name": str,
        "checkpoint": str,
        "onnx": str,
        "checkpoint_format": str,
        "num_classes": int,
        "options": dict,
        "head": str,
        "fold_preprocessing": str,
    },
    "preprocess": PREPROCESS_KEYS,
    "data": {
        "calibration": str,
        "calibration_split": str,
        "validation": str,
        "validation_split": str,
        "labels": str,
        "skip_bad_images": bool,
    },
    "build": {
        "precision": str,
        "targets": list,
        "batch": int,
        "dynamic_batch": str,
        "threads": int,
        "out": str,
        "compute_capabilities": list,
        "jetpack": str,
        "tensorrt": str,
        "dla": bool,
        "bundle": bool,
    },
    "calibrate": {"calibrator": str, "max_images": int, "batch": int, "seed": int},
    "quantize": {"float_rest": str, "placement": str, "keep_float": list, "bias_correction": bool},
    "search": SEARCH_KEYS,
    "latency": {"rounds": int, "calls_per_block": int},
    "gates": {
        "max_drop_pp": NUMBER,
        "min_agreement": NUMBER,
        "min_sqnr_db": NUMBER,
        "min_speedup": NUMBER,
    },
}
# a flag for one of these replaces the others in the file
_EITHER_OR: Mapping[str, tuple[str, ...]] = {
    "build.batch": ("build.dynamic_batch",),
    "build.dynamic_batch": ("build.batch",),
    "model.onnx": ("model.name", "model.checkpoint", "model.checkpoint_format", "model.options"),
    "model.name": ("model.onnx",),
    "model.checkpoint": ("model.onnx",),
}
_PATH_KEYS = frozenset(
    (
        ("model", "checkpoint"),
        ("model", "onnx"),
        ("data", "calibration"),
        ("data", "validation"),
        ("data", "labels"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where images come from: a folder, or a set file and one of its splits."""

    location: Path
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything one build needs. ``targets`` empty: those this machine can compile for.

    ``jetpack`` and ``tensorrt`` empty: all that a device ships with; ``dla``: its accelerators too.
    ``placement`` empty: the default; ``keep_float``: groups that stay float in INT8.
    ``bias_correction`` None: as a trial found it.
    ``is_best``: FP16 and INT8 are both built and one is chosen; ``precision`` is then INT8.

    ``preprocess`` and ``model_options`` hold only what the recipe sets; the rest comes from the
    checkpoint's family. With ``is_foreign`` ``checkpoint`` is an ONNX graph, ``model`` its name.
    """

    origin: str
    model: str
    checkpoint: Path
    checkpoint_format: str
    num_classes: int | None
    model_options: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    calibration: Source | None
    validation: Source | None
    labels: Path | None
    skip_bad_images: bool
    precision: Precision
    is_best: bool
    targets: tuple[str, ...]
    profile: ShapeProfile
    threads: int
    out: Path
    compute_capabilities: tuple[str, ...]
    jetpack: str
    tensorrt: str
    dla: bool
    bundle: bool
    calibrator: str
    calibration_images: int
    calibration_batch: int
    seed: int
    float_rest: str
    placement: str
    keep_float: tuple[str, ...]
    bias_correction: bool | None
    latency_rounds: int
    latency_calls: int
    budget: Budget | None = None
    gates: Gates = field(default_factory=Gates)
    head: Head = field(default_factory=Head)
    fold: Mapping[str, str] = field(default_factory=dict)
    is_foreign: bool = False

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is built and judged: the precision that was asked for, or both that may win."""
        return (Precision.FP16, Precision.INT8) if self.is_best else (self.precision,)


def find_recipe(start: Path) -> Path | None:
    """``edge-inception.toml`` in ``start``, else the one named by pyproject.toml here or above."""
    here = start / FILE_NAME
    if here.is_file():
        return here
    for folder in (start, *start.parents):
        project = folder / "pyproject.toml"
        if project.is_file():
            named = _parse(project).get("tool", {}).get("edge-inception", {}).get("recipe")
            if named:
                return folder / str(named)
    return None


def load_recipe(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and apply ``overrides`` such as ``{"build.precision": "fp16"}``.

    Args:
        path: TOML file; None starts from an empty recipe, so ``overrides`` must give all.
        overrides: ``section.key`` to value; relative paths are relative to the working folder.

    Raises:
        InputError: Missing file, not TOML, unknown section or key, wrong type, missing key.
    """
    tables: Table = _parse(path) if path else {"schema": SCHEMA}
    where = str(path) if path else "command line"
    _check_keys(tables, where)
    if path:
        _anchor_paths(tables, path.resolve().parent)
    for name, value in (overrides or {}).items():
        section, key = name.split(".", 1)
        tables.setdefault(section, {})[key] = value
        for other in _EITHER_OR.get(name, ()):
            if other not in (overrides or {}):
                tables[section].pop(other.partition(".")[2], None)
    _check_keys(tables, where)
    return _to_recipe(tables, where)


def _parse(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read recipe {path}: {error.strerror}",
            hint="'edge-inception init' writes a starter recipe",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}", hint="fix the line named") from error


def _check_keys(tables: Table, where: str) -> None:
    if tables.get("schema", None) != SCHEMA:
        raise InputError(
            f"{where}: schema is {tables.get('schema')!r}, wanted {SCHEMA}",
            hint=f"add the line 'schema = {SCHEMA}' at the top",
        )
    for section, table in tables.items():
        if section in _KEYS[""]:
            continue
        if section not in _KEYS:
            raise _unknown(f"{where}: unknown section [{section}]", section, _KEYS)
        if not isinstance(table, dict):
            raise InputError(f"{where}: '{section}' is not a section", hint=f"write [{section}]")
        for key, value in table.items():
            _check_key(section, key, value, where)


def _check_key(section: str, key: str, value: Any, where: str) -> None:
    known = _KEYS[section]
    if key not in known:
        raise _unknown(f"{where}: unknown key '{key}' in [{section}]", key, known)
    wanted = known[key]
    is_bool_for_number = isinstance(value, bool) and wanted is not bool
    if not isinstance(value, wanted) or is_bool_for_number:
        names = wanted if isinstance(wanted, tuple) else (wanted,)
        raise InputError(
            f"{where}: {section}.{key} is {value!r}",
            hint=f"wanted {' or '.join(kind.__name__ for kind in names)}",
        )


def _unknown(message: str, name: str, known: Mapping[str, Any]) -> InputError:
    return InputError(message, hint=known_names(name, (key for key in known if key)))


def _anchor_paths(tables: Table, folder: Path) -> None:
    for section, key in _PATH_KEYS:
        value = tables.get(section, {}).get(key)
        if value is not None:
            tables[section][key] = str(folder / value)


def _to_recipe(tables: Table, where: str) -> Recipe:
    model, data, build = (tables.get(name, {}) for name in ("model", "data", "build"))
    calibrate, latency = tables.get("calibrate", {}), tables.get("latency", {})
    quantize = tables.get("quantize", {})
    name, source = _subject(model, where)
    allowed = budget(tables.get("search", {}), where)
    return Recipe(
        origin=where,
        model=name,
        checkpoint=source,
        is_foreign="onnx" in model,
        checkpoint_format=model.get("checkpoint_format", "auto"),
        num_classes=_num_classes(model, where),
        model_options=model.get("options", {}),
        head=head(model.get("head", "logits")),
        fold=fold(model.get("fold_preprocessing", "none")),
        preprocess=preprocess_changes(tables.get("preprocess", {}), where),
        calibration=_source(data, "calibration"),
        validation=_source(data, "validation"),
        labels=Path(data["labels"]) if "labels" in data else None,
        skip_bad_images=data.get("skip_bad_images", False),
        precision=_precision(build.get("precision", "int8")),
        is_best=build.get("precision") == _BEST,
        targets=tuple(str(name) for name in build.get("targets", ())),
        profile=_profile(build, where),
        threads=_at_least(build.get("threads", 0), 0, "build.threads", where),
        out=Path(build.get("out", "build/edge-inception")),
        compute_capabilities=tuple(str(c) for c in build.get("compute_capabilities", ())),
        jetpack=build.get("jetpack", ""),
        tensorrt=build.get("tensorrt", ""),
        dla=build.get("dla", False),
        bundle=build.get("bundle", False),
        calibrator=calibrate.get("calibrator", "mse"),
        calibration_images=_at_least(
            calibrate.get("max_images", 512), 1, "calibrate.max_images", where
        ),
        calibration_batch=_at_least(calibrate.get("batch", 8), 1, "calibrate.batch", where),
        seed=_at_least(calibrate.get("seed", 0), 0, "calibrate.seed", where),
        float_rest=one_of(quantize.get("float_rest", "fp16"), _FLOAT_RESTS, "float rest"),
        placement=quantize.get("placement", ""),
        keep_float=tuple(sorted({str(name) for name in quantize.get("keep_float", ())})),
        bias_correction=quantize.get("bias_correction"),
        latency_rounds=_at_least(latency.get("rounds", 10), 3, "latency.rounds", where),
        latency_calls=_at_least(
            latency.get("calls_per_block", 20), 1, "latency.calls_per_block", where
        ),
        budget=allowed,
        gates=_gates(_budget_too(tables.get("gates", {}), allowed), where),
    )


def _num_classes(model: Table, where: str) -> int | None:
    asked = model.get("num_classes")
    return None if asked is None else _at_least(asked, 1, "model.num_classes", where)


_FLAGS = {"name": "model", "checkpoint": "checkpoint"}
_OF_MODELS = ("name", "checkpoint", "checkpoint_format", "options")


def _subject(model: Table, where: str) -> tuple[str, Path]:
    """Name of what is built, and its file: a checkpoint of one of our models, or an ONNX graph."""
    if "onnx" in model:
        both = [key for key in _OF_MODELS if key in model]
        if both:
            raise InputError(
                f"{where}: both an ONNX graph and model {both[0]}",
                hint="give --onnx alone, or --model with --checkpoint",
            )
        return Path(model["onnx"]).stem, Path(model["onnx"])
    for key in ("name", "checkpoint"):
        if key not in model:
            raise InputError(
                f"{where}: no model {key}", hint=f"set [model] {key}, or pass --{_FLAGS[key]}"
            )
    return model["name"], Path(model["checkpoint"])


_BEST = "best"
_FLOAT_RESTS = ("fp16", "fp32")
# Key -> lowest and highest value that can mean something.
_GATE_LIMITS: Mapping[str, tuple[float, float]] = {
    "max_drop_pp": (0.0, 100.0),
    "min_agreement": (0.0, 1.0),
    "min_sqnr_db": (-math.inf, math.inf),
    "min_speedup": (0.0, math.inf),
}


def _budget_too(gates: Table, allowed: Budget | None) -> Table:
    """The gates, with that of the drop: a budget is one too, unless another is set."""
    return {"max_drop_pp": allowed.max_drop_pp, **gates} if allowed else gates


def _gates(table: Table, where: str) -> Gates:
    for key, value in table.items():
        least, most = _GATE_LIMITS[key]
        if not math.isfinite(value) or not least <= value <= most:
            bounds = f" from {least:g} to {most:g}" if math.isfinite(most) else ""
            above = f" of at least {least:g}" if not bounds and math.isfinite(least) else ""
            raise InputError(
                f"{where}: gates.{key} is {value}", hint=f"wanted a finite number{bounds}{above}"
            )
    return Gates(**table)


def _source(data: Table, role: str) -> Source | None:
    if role not in data:
        return None
    return Source(location=Path(data[role]), split=data.get(f"{role}_split", ""))


def _precision(name: str) -> Precision:
    known = [*(precision.value for precision in Precision), _BEST]
    return Precision.INT8 if one_of(name, known, "precision") == _BEST else Precision(name)


def _at_least(value: int, least: int, name: str, where: str) -> int:
    if value < least:
        raise InputError(f"{where}: {name} is {value}", hint=f"wanted at least {least}")
    return value


def _profile(build: Table, where: str) -> ShapeProfile:
    if "dynamic_batch" not in build:
        batch = _at_least(build.get("batch", 1), 1, "build.batch", where)
        return ShapeProfile(min=batch, opt=batch, max=batch)
    text = build["dynamic_batch"]
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isdigit()]
    if len(parts) != 3 or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:  # noqa: PLR2004 -- MIN:OPT:MAX
        raise InputError(
            f"{where}: dynamic batch '{text}'", hint="wanted MIN:OPT:MAX, such as 1:4:8"
        )
    if "batch" in build:
        raise InputError(
            f"{where}: both a static batch and a dynamic batch", hint="give one of them"
        )
    return ShapeProfile(min=numbers[0], opt=numbers[1], max=numbers[2])
