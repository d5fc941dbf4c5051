"""Flags that several commands share, and how flags become a recipe.

A command has a parameter for each flag of its own. Its parameter ``flags`` has the shared flags, by
name, of the terminal and of the recipe; ``terminal_of`` and ``recipe_of`` read them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_inception.errors import EdgeInceptionError, InputError
from edge_inception.quant.policies import POLICIES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from edge_inception.artifact import Artifact
    from edge_inception.cli._terminal import Terminal
    from edge_inception.recipe.reader import Recipe

_PLACEMENT = (
    f"Which tensors get Q/DQ pairs: {', '.join(policy.name for policy in POLICIES)}. "
    "The first is the default."
)
_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R", bound="DataclassInstance")
PATH = click.Path(path_type=Path)
VERDICT_CODES = {"PASSED": 0, "FAILED": 6, "INCONCLUSIVE": 8}

# Flag -> recipe key that the flag overrides.
OVERRIDES: Mapping[str, str] = {
    "model": "model.name",
    "checkpoint": "model.checkpoint",
    "onnx": "model.onnx",
    "checkpoint_format": "model.checkpoint_format",
    "num_classes": "model.num_classes",
    "option": "model.options",
    "head": "model.head",
    "fold_preprocessing": "model.fold_preprocessing",
    "input_size": "preprocess.input_size",
    "crop": "preprocess.crop",
    "channel_order": "preprocess.channel_order",
    "mean": "preprocess.mean",
    "std": "preprocess.std",
    "crop_fraction": "preprocess.crop_fraction",
    "interpolation": "preprocess.interpolation",
    "calibration": "data.calibration",
    "calibration_split": "data.calibration_split",
    "validation": "data.validation",
    "validation_split": "data.validation_split",
    "labels": "data.labels",
    "skip_bad_images": "data.skip_bad_images",
    "precision": "build.precision",
    "target": "build.targets",
    "batch": "build.batch",
    "dynamic_batch": "build.dynamic_batch",
    "threads": "build.threads",
    "out": "build.out",
    "compute_capability": "build.compute_capabilities",
    "jetpack": "build.jetpack",
    "tensorrt": "build.tensorrt",
    "use_dla": "build.dla",
    "bundle": "build.bundle",
    "calibrator": "calibrate.calibrator",
    "effort": "calibrate.effort",
    "max_images": "calibrate.max_images",
    "float_rest": "quantize.float_rest",
    "placement": "quantize.placement",
    "rounding": "quantize.rounding",
    "fold_zero_points": "quantize.fold_zero_points",
    "keep_float": "quantize.keep_float",
    "bias_correction": "quantize.bias_correction",
    "max_drop": "gates.max_drop_pp",
    "drop_type": "search.drop_type",
    "min_agreement": "gates.min_agreement",
    "min_sqnr": "gates.min_sqnr_db",
    "min_speedup": "gates.min_speedup",
}


# Flag -> second key that it sets: the limit of the top-1 drop is also the budget of the search.
_ALSO: Mapping[str, str] = {"max_drop": "search.max_drop_pp"}


def option_group(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """One decorator that adds the options of all ``decorators``, in this order in the help."""

    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


terminal_options = option_group(
    click.option(
        "--verbose", "-v", "verbosity", flag_value=1, type=int, help="Print counts and reasons."
    ),
    click.option("--quiet", "-q", "verbosity", flag_value=-1, type=int, help="Print errors only."),
    click.option("--log-file", type=PATH, help="Append all lines to this file, with times."),
)
recipe_options = option_group(
    click.option("--recipe", type=PATH, help="Recipe file; by default edge-inception.toml here."),
    click.option("--model", help="Architecture; `edge-inception models` lists all."),
    click.option("--checkpoint", type=PATH, help="Weights: safetensors, torch.save or npz file."),
    click.option("--onnx", type=PATH, help="A float ONNX classifier to build instead."),
    click.option(
        "--checkpoint-format",
        help="Publisher whose tensor names the checkpoint has: timm, slim, ...; by default "
        "auto, which recognises it.",
    ),
    click.option("--num-classes", type=int, help="Classes that the checkpoint's head must have."),
    click.option(
        "--option", multiple=True, metavar="KEY=VALUE", help="Model option, such as width=0.25."
    ),
    click.option("--input-size", "--imgsz", type=int, help="Side of the input in pixels."),
    click.option("--crop-fraction", type=float, help="Share of the image that is kept, 0..1."),
    click.option("--crop", help="Crop after_resize, or before_resize as TF-slim does."),
    click.option("--interpolation", help="Resize by nearest, bilinear, bicubic or lanczos."),
    click.option("--channel-order", help="Order of the channels that the model takes: RGB or BGR."),
    click.option("--mean", metavar="R,G,B", help="Subtracted from each channel of pixels in 0..1."),
    click.option("--std", metavar="R,G,B", help="Divides each channel after that."),
)
graph_options = option_group(
    click.option("--head", help="Output of the graph: logits, softmax or topk:K."),
    click.option(
        "--fold-preprocessing",
        is_flag=False,
        flag_value="uint8",
        metavar="[none|uint8|uint8-nhwc]",
        help="Put the normalisation into the graph, which then takes pixels. The flag without a "
        "value means uint8.",
    ),
)
calibration_options = option_group(
    click.option("--calibration", "--calibration-data-path", type=PATH, help="Folder or set file."),
    click.option("--calibration-split", help="Split of the set file of --calibration."),
    click.option(
        "--calibrator",
        "--calibration-method",
        help="How ranges are chosen: mse, mse-max, max, entropy, percentile:P, or auto (the "
        "default), which tries several on int8 graphs.",
    ),
    click.option(
        "--effort",
        help="Work of calibration: quick is one pass over the images; default also rounds weights "
        "by second order and tries about ten int8 graphs; max tries all combinations.",
    ),
    click.option(
        "--max-images",
        "--subset-size",
        type=int,
        help="Calibrate on at most this many images. By default build takes 512 and calibrate all.",
    ),
)
labels_option = click.option(
    "--labels", type=PATH, help="Class names, one per line, in logit order."
)
skip_option = click.option(
    "--skip-bad-images", is_flag=True, default=None, help="Leave out unreadable images."
)
validation_options = option_group(
    click.option("--validation", type=PATH, help="Class folders, plain images or a set file."),
    click.option("--validation-split", help="Split of the set file of --validation."),
    labels_option,
    skip_option,
)
typing_options = option_group(
    click.option(
        "--precision",
        help="fp32, fp16 or int8; build also takes best: the faster one of fp16 and int8 that "
        "meets the gates.",
    ),
    click.option("--float-rest", help="Float part of an int8 graph: fp16 or fp32."),
    click.option("--placement", metavar="NAME", help=_PLACEMENT),
    click.option(
        "--rounding",
        metavar="NAME",
        help="Rounding of weights: nearest, or second-order, in which errors cancel.",
    ),
    click.option(
        "--fold-zero-points/--no-fold-zero-points",
        default=None,
        help="Use all 255 levels of int8 for tensors that cannot be negative, or half of them.",
    ),
    click.option("--keep-float", metavar="GROUP[,GROUP]", help="Groups that stay float in int8."),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=None,
        help="Correct each bias by what int8 adds to the mean output of its layer, or do not.",
    ),
)
batch_options = option_group(
    click.option("--batch", type=int, help="Static batch size."),
    click.option("--dynamic-batch", metavar="MIN:OPT:MAX", help="Range of batch sizes instead."),
)


device_options = option_group(
    click.option("--jetpack", help="JetPack of a Jetson, such as 6.2; by default all."),
    click.option("--tensorrt", help="TensorRT of the device; by default its JetPacks'."),
    click.option("--use-dla", is_flag=True, default=None, help="Build for a Jetson's DLA too."),
)
drop_type_option = click.option(
    "--drop-type",
    help="Unit of --max-drop on the calibration images: absolute (percentage points) or relative "
    "(percent of the float accuracy).",
)
gate_options = option_group(
    click.option(
        "--max-drop",
        type=float,
        help="Gate: top-1 drop in percentage points; to meet it build keeps groups of an int8 "
        "graph in float.",
    ),
    click.option("--min-agreement", type=float, help="Gate: share of equal top-1, 0..1."),
    click.option("--min-sqnr", type=float, help="Gate: SQNR of the centred logits in dB."),
    click.option("--min-speedup", type=float, help="Gate: over FP32 in the same engine library."),
)


@contextmanager
def terminal_of(flags: Mapping[str, Any]) -> Iterator[Terminal]:
    """A terminal by --verbose, --quiet and --log-file; an error in the block is logged too."""
    from edge_inception.cli._terminal import Terminal

    terminal = Terminal(verbosity=flags["verbosity"] or 0, log_file=flags["log_file"])
    try:
        yield terminal
    except EdgeInceptionError as error:
        terminal.log(f"error: {error}")
        raise
    finally:
        terminal.close()


def print_artifact(terminal: Terminal, artifact: Artifact) -> None:
    """Print an artifact's notes and counts on stderr, and its path on stdout."""
    from edge_inception.pipeline.runner import summarize_counts
    from edge_inception.sidecar import ModelDetails

    if isinstance(artifact.details, ModelDetails):
        for note in artifact.details.checkpoint_notes or ():
            terminal.note(f"checkpoint: {note}")
    terminal.note(summarize_counts(artifact.counts))
    terminal.detail(summarize_counts(artifact.counts, is_full=True))
    click.echo(f"{artifact.path}")


def recipe_of(flags: Mapping[str, Any], terminal: Terminal) -> Recipe:
    """The recipe of --recipe, or the one that is found, with flags on top; a note names its file.

    No recipe is looked for if --model, --checkpoint or --onnx is given.

    Raises:
        InputError: There is no recipe and no such flag, or the recipe is not valid.
    """
    from edge_inception.recipe.reader import find_recipe, load_recipe

    path = flags.get("recipe")
    if path is None and all(flags.get(flag) is None for flag in ("model", "checkpoint", "onnx")):
        path = find_recipe(Path.cwd())
        if path is None:
            raise InputError(
                "no recipe here, no --model with --checkpoint and no --onnx",
                hint="'edge-inception init' writes a starter recipe",
            )
    terminal.note(f"recipe: {path or 'none, all from flags'}")
    return load_recipe(path, overrides_of(flags))


def overrides_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the flags on the command line, by the recipe key that each overrides."""
    overrides: dict[str, Any] = {}
    for flag, key in OVERRIDES.items():
        value = flags.get(flag)
        if value is None or value == ():
            continue
        if flag in _READERS:
            overrides[key] = _READERS[flag](value)
        elif isinstance(value, Path):
            overrides[key] = str(value)
        else:
            overrides[key] = list(value) if isinstance(value, tuple) else value
        if flag in _ALSO:
            overrides[_ALSO[flag]] = overrides[key]
    return overrides


def model_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Model options by name: ``("width=0.25",)`` becomes ``{"width": 0.25}``.

    A value that is not JSON stays a text.

    Raises:
        InputError: A pair has no equals sign.
    """
    options = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InputError(
                f"--option '{pair}' has no value", hint="write KEY=VALUE, such as width=0.25"
            )
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _numbers(text: str) -> list[float]:
    """The numbers in ``"0.485,0.456,0.406"``; the reader of recipes checks that there are 3."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"'{text}' is not a list of numbers", hint="write them as 0.485,0.456,0.406"
        ) from error


def record_of(kind: type[_R], flags: Mapping[str, Any]) -> _R:
    """A record of ``kind``; each field has the value of the flag of the same name."""
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind)})


def given_flags(candidates: Sequence[str], flags: DataclassInstance) -> list[str]:
    """Those of ``candidates``, names of flags, that were given; spelled such as ``--batch``.

    A flag with the value 0 counts as given; one with None, () or False was left out.
    """
    values = {name: getattr(flags, name) for name in candidates}
    return [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if value not in (None, ()) and value is not False
    ]


def names(text: str | None) -> list[str]:
    """The names in a text such as ``"b,a"``, sorted and without repetition."""
    return sorted({part.strip() for part in (text or "").split(",")} - {""})


# Flag whose text holds several values -> function that reads the text.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "option": model_options,
    "mean": _numbers,
    "std": _numbers,
    "keep_float": names,
}
