"""The strict reader of recipes in TOML.

Paths in a recipe are relative to the recipe file; ``build.out`` is relative to the working folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgspec

from edge_inception import records
from edge_inception.errors import InputError, known_names
from edge_inception.recipe.sections import (
    Build,
    Limits,
    Model,
    Sections,
    parse_budget,
    parse_fold,
    parse_head,
    preprocess_changes,
    require_known,
    set_values,
)
from edge_inception.records import Record
from edge_inception.spec import Budget, Gates, Head, Precision, ShapeProfile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = 1
FILE_NAME = "edge-inception.toml"
Table = dict[str, Any]

# Recipe key -> other keys that it excludes; an override of the key removes them from the recipe.
_EXCLUDED_KEYS: Mapping[str, tuple[str, ...]] = {
    "build.batch": ("build.dynamic_batch",),
    "build.dynamic_batch": ("build.batch",),
    "model.onnx": ("model.name", "model.checkpoint", "model.checkpoint_format", "model.options"),
    "model.name": ("model.onnx",),
    "model.checkpoint": ("model.onnx",),
}
_PATH_KEYS = (
    ("model", "checkpoint"), ("model", "onnx"),
    ("data", "calibration"), ("data", "validation"), ("data", "labels"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Source of images: a folder, or a set file and one of its splits."""

    location: Path
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that one build needs.

    ``origin`` names the recipe in errors. ``preprocess`` and ``model_options`` hold only what the
    recipe sets; the checkpoint's family decides the rest. ``fold`` has the fields of ``Preprocess``
    for preprocessing inside the graph. With ``is_imported``, ``checkpoint`` is an ONNX graph and
    ``model`` its name. With ``is_best``, FP16 and INT8 are built, one is chosen, and ``precision``
    is INT8. Empty ``targets`` stand for those that this machine can compile for, an empty
    ``jetpack`` or ``tensorrt`` for all versions that a device ships with, an empty ``placement`` or
    ``typing`` for the default. With ``dla``, the deep-learning accelerators of a Jetson are used
    too. ``keep_float`` are the layer groups that stay float in INT8. If ``bias_correction`` is
    None, the trial of the calibrator ``auto`` decides. ``threads`` 0 means all cores that this
    process may use. ``budget`` is that of the search for layer groups to keep in float; None: no
    search.
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
    effort: str
    calibration_images: int
    calibration_batch: int
    seed: int
    typing: str
    float_rest: str
    placement: str
    rounding: str
    fold_zero_points: bool | None
    keep_float: tuple[str, ...]
    bias_correction: bool | None
    latency_rounds: int
    latency_calls: int
    budget: Budget | None = None
    gates: Gates = field(default_factory=Gates)
    head: Head = field(default_factory=Head)
    fold: Mapping[str, str] = field(default_factory=dict)
    is_imported: bool = False

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions to build and judge: FP16 and INT8 with ``is_best``, else one."""
        return (Precision.FP16, Precision.INT8) if self.is_best else (self.precision,)


_SHAPE_HINT = "a recipe has sections of keys, and no arrays in arrays"
_KEY_HINT = "name the recipe's file: [tool.edge-inception] recipe = 'r.toml'"


def find_recipe(start: Path) -> Path | None:
    """Path of a recipe: ``edge-inception.toml`` in ``start``, else what pyproject.toml names.

    The nearest pyproject.toml in ``start`` or above that names a recipe counts; None without one.
    """
    here = start / FILE_NAME
    if here.is_file():
        return here
    for folder in (start, *start.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and (named := _recipe_name(project)):
            return folder / named
    return None


def _recipe_name(project: Path) -> str:
    """The recipe's path in ``[tool.edge-inception]`` of pyproject.toml; empty if not set."""
    table = _read_toml(project)
    for key in ("tool", "edge-inception"):
        where = f"{project}, [{key}]"
        table = records.convert(Table, table.get(key, {}), where=where, hint=_KEY_HINT)
    return records.convert(str, table.get("recipe", ""), where=f"{project}, recipe", hint=_KEY_HINT)


def load_recipe(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and apply ``overrides`` such as ``{"build.precision": "fp16"}``.

    Args:
        path: TOML file; None stands for an empty recipe, so ``overrides`` has to set all keys.
        overrides: Value by ``section.key``; paths in values are relative to the working folder.

    Raises:
        InputError: The file is missing or not TOML, a section or key is unknown or missing, or a
            value is not valid.
    """
    tables: Table = _read_toml(path) if path else {"schema": SCHEMA}
    where = str(path) if path else "command line"
    _to_sections(tables, where)
    if path:
        _anchor_paths(tables, path.resolve().parent)
    for name, value in (overrides or {}).items():
        section, key = name.split(".", 1)
        tables.setdefault(section, {})[key] = value
        for other in _EXCLUDED_KEYS.get(name, ()):
            if other not in (overrides or {}):
                tables[section].pop(other.partition(".")[2], None)
    return _to_recipe(_to_sections(tables, where), where)


def _read_toml(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read recipe {path}: {error.strerror}",
            hint="'edge-inception init' writes a starter recipe",
        ) from error
    except RecursionError as error:
        raise InputError(f"{path} is not valid TOML: nested too deep", hint=_SHAPE_HINT) from error
    except ValueError as error:  # also bad encoding, and numbers of over 4,300 digits
        reason = str(error).partition("; use sys.")[0]
        raise InputError(
            f"{path} is not valid TOML: {reason}", hint="fix the line named"
        ) from error


def _to_sections(tables: Table, where: str) -> Sections:
    """The sections of a recipe as records.

    Raises:
        InputError: ``schema`` is wrong, a section or key is unknown, or a value is not valid.
    """
    if (schema := tables.get("schema")) != SCHEMA:
        raise InputError(
            f"{where}: schema is {_show(schema)}, wanted {SCHEMA}",
            hint=f"add the line 'schema = {SCHEMA}' at the top",
        )
    known = {field.name: field.type for field in msgspec.structs.fields(Sections)}
    sections: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "schema":
            continue
        if name not in known:
            raise InputError(f"{where}: unknown section [{name}]", hint=known_names(name, known))
        sections[name] = _to_section(known[name], name, table, where)
    return Sections(**sections)


def _to_section(kind: type[Record], name: str, table: Any, where: str) -> Record:
    if not isinstance(table, dict):
        raise InputError(f"{where}: '{name}' is not a section", hint=f"write [{name}]")
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in types:
            problem = f"{where}: unknown key '{key}' in [{name}]"
            raise InputError(problem, hint=known_names(key, types))
    return kind(**{k: _convert(types[k], v, f"{where}: {name}.{k}") for k, v in table.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """The value, converted to ``kind``.

    Raises:
        InputError: The value is not valid; message and hint have place, value, and what is valid.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as error:
        wanted = _description(kind) or _expected(str(error)) or "text in Unicode"
        raise InputError(f"{where} is {_show(value)}", hint=f"wanted {wanted}") from error


def _description(kind: Any) -> str:
    """Description of valid values: the type's own, else that of its first part that has one."""
    texts = [meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description]
    texts += [_description(part) for part in get_args(kind)]
    return next(filter(None, texts), "")


def _expected(reason: str) -> str:
    """The valid values in msgspec's message: ``at least 3`` for "`int` >= 3", else the type."""
    if found := re.search("` ([<>])= (.*)", reason):
        return f"at {'least' if found[1] == '>' else 'most'} {found[2]}"
    return reason.partition("`")[2].partition("`")[0].removesuffix(" | null")


def _show(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # over 4,300 digits, or nested without end
        return "beyond all bounds"


def _anchor_paths(tables: Table, folder: Path) -> None:
    for section, key in _PATH_KEYS:
        value = tables.get(section, {}).get(key)
        if value is not None:
            tables[section][key] = str(folder / value)


def _to_recipe(sections: Sections, where: str) -> Recipe:
    model, data, build = sections.model, sections.data, sections.build
    name, source = _model_and_file(model, where)
    budget = parse_budget(sections.search, where)
    return Recipe(
        origin=where,
        model=name,
        checkpoint=source,
        is_imported=model.onnx is not None,
        checkpoint_format=model.checkpoint_format or "auto",
        num_classes=model.num_classes,
        model_options=model.options or {},
        head=parse_head(model.head),
        fold=parse_fold(model.fold_preprocessing),
        preprocess=preprocess_changes(sections.preprocess),
        calibration=_source(data.calibration, data.calibration_split),
        validation=_source(data.validation, data.validation_split),
        labels=None if data.labels is None else Path(data.labels),
        skip_bad_images=data.skip_bad_images,
        precision=_precision(build.precision),
        is_best=build.precision == _BEST,
        targets=build.targets,
        profile=_profile(build, where),
        threads=build.threads,
        out=Path(build.out),
        compute_capabilities=tuple(str(name) for name in build.compute_capabilities),
        jetpack=build.jetpack,
        tensorrt=build.tensorrt,
        dla=build.dla,
        bundle=build.bundle,
        calibrator=sections.calibrate.calibrator,
        effort=sections.calibrate.effort,
        calibration_images=sections.calibrate.max_images,
        calibration_batch=sections.calibrate.batch,
        seed=sections.calibrate.seed,
        typing=require_known(sections.quantize.typing, _TYPINGS, "typing"),
        float_rest=require_known(sections.quantize.float_rest, _FLOAT_RESTS, "float rest"),
        placement=sections.quantize.placement,
        rounding=sections.quantize.rounding,
        fold_zero_points=sections.quantize.fold_zero_points,
        keep_float=tuple(sorted(set(sections.quantize.keep_float))),
        bias_correction=sections.quantize.bias_correction,
        latency_rounds=sections.latency.rounds,
        latency_calls=sections.latency.calls_per_block,
        budget=budget,
        gates=_gates(sections.gates, budget),
    )


_MODEL_KEYS = ("name", "checkpoint", "checkpoint_format", "options")


def _model_and_file(model: Model, where: str) -> tuple[str, Path]:
    """Name of the model, and its file: a checkpoint, or an ONNX graph, which names the model."""
    if model.onnx is not None:
        both = [key for key in set_values(model) if key in _MODEL_KEYS]
        if both:
            raise InputError(
                f"{where}: both an ONNX graph and model {both[0]}",
                hint="give --onnx alone, or --model with --checkpoint",
            )
        return Path(model.onnx).stem, Path(model.onnx)
    if model.name is None or model.checkpoint is None:
        key, flag = ("name", "model") if model.name is None else ("checkpoint", "checkpoint")
        raise InputError(f"{where}: no model {key}", hint=f"set [model] {key}, or pass --{flag}")
    return model.name, Path(model.checkpoint)


_BEST = "best"
_FLOAT_RESTS = ("fp16", "fp32")
_TYPINGS = ("", "strong", "cpu")


def _gates(limits: Limits, budget: Budget | None) -> Gates:
    """The gates; without a gate of the top-1 drop, the budget of the search becomes this gate."""
    default = {"max_drop_pp": budget.max_drop_pp} if budget else {}
    return Gates(**{**default, **set_values(limits)})


def _source(location: str | None, split: str) -> Source | None:
    return None if location is None else Source(location=Path(location), split=split)


def _precision(name: str) -> Precision:
    known = [*(precision.value for precision in Precision), _BEST]
    return Precision.INT8 if require_known(name, known, "precision") == _BEST else Precision(name)


def _profile(build: Build, where: str) -> ShapeProfile:
    text = build.dynamic_batch
    if text is None:
        batch = build.batch or 1
        return ShapeProfile(min=batch, opt=batch, max=batch)
    numbers = [int(part) for part in text.split(":") if re.fullmatch("[0-9]{1,9}", part)]
    if text.count(":") != 2 or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:  # noqa: PLR2004 -- MIN:OPT:MAX
        raise InputError(
            f"{where}: dynamic batch '{text}'", hint="wanted MIN:OPT:MAX, such as 1:4:8"
        )
    if build.batch is not None:
        raise InputError(
            f"{where}: both a static batch and a dynamic batch", hint="give one of them"
        )
    return ShapeProfile(min=numbers[0], opt=numbers[1], max=numbers[2])
