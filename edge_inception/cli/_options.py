"""Flags that several commands share, and the functions that turn flags into a recipe.

A command has a parameter for each flag of its own. Its parameter ``flags`` has the shared flags, by
name, of the terminal and of the recipe; ``open_terminal`` and ``read_recipe`` read them.
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

# Section of a recipe -> flags that have the names of the keys that they override.
_SAME_NAMES: Mapping[str, str] = {
    "model": "checkpoint onnx checkpoint_format num_classes head fold_preprocessing",
    "preprocess": "input_size crop channel_order mean std crop_fraction interpolation",
    "data": "calibration calibration_split validation validation_split labels skip_bad_images",
    "build": "precision batch dynamic_batch threads out jetpack tensorrt bundle",
    "calibrate": "calibrator effort max_images",
    "quantize": "typing float_rest placement rounding fold_zero_points keep_float bias_correction",
    "search": "drop_type",
    "gates": "min_agreement min_speedup",
}
# Flag -> recipe key that the flag overrides.
OVERRIDES: Mapping[str, str] = {
    **{flag: f"{name}.{flag}" for name, flags in _SAME_NAMES.items() for flag in flags.split()},
    "model": "model.name",
    "option": "model.options",
    "target": "build.targets",
    "compute_capability": "build.compute_capabilities",
    "use_dla": "build.dla",
    "max_drop": "gates.max_drop_pp",
    "min_sqnr": "gates.min_sqnr_db",
}
# Flag -> second key that it sets: the limit of the top-1 drop is also the budget of the search.
_SECOND_KEYS: Mapping[str, str] = {"max_drop": "search.max_drop_pp"}


def option_group(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """A decorator that adds the options of all ``decorators``; the help has them in this order."""

    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
out_option = click.option("--out", type=PATH, required=True, help="File to write.")
threads_option = click.option(
    "--threads", type=int, help="Number of CPU threads; by default, and for 0, all usable ones."
)
dynamic_batch_option = click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Number of images, where the graph's batch is dynamic; by default 1.",
)
terminal_options = option_group(
    click.option(
        "--verbose", "-v", "verbosity", flag_value=1, type=int, help="Print counts and reasons."
    ),
    click.option("--quiet", "-q", "verbosity", flag_value=-1, type=int, help="Print errors only."),
    click.option("--log-file", type=PATH, help="Append all lines to this file, with times."),
)
model_option = click.option(
    "--option", multiple=True, metavar="KEY=VALUE", help="Option of the model, such as width=0.25."
)
input_size_option = click.option(
    "--input-size", "--imgsz", type=int, help="Height and width of the input in pixels."
)
interpolation_option = click.option(
    "--interpolation", help="Filter of the resize: nearest, bilinear, bicubic or lanczos."
)
recipe_options = option_group(
    click.option("--recipe", type=PATH, help="Recipe file; by default edge-inception.toml here."),
    click.option("--model", help="Architecture; `edge-inception models` lists all."),
    click.option("--checkpoint", type=PATH, help="Weights: safetensors, torch.save or npz file."),
    click.option("--onnx", type=PATH, help="Float ONNX classifier, instead of a checkpoint."),
    click.option(
        "--checkpoint-format",
        help="Publisher whose tensor names the checkpoint has: timm, slim, ...; by default "
        "auto, which recognises it.",
    ),
    click.option("--num-classes", type=int, help="Number of classes of the checkpoint's head."),
    model_option,
    input_size_option,
    click.option("--crop-fraction", type=float, help="Share of the image that is kept, 0..1."),
    click.option("--crop", help="after_resize, or before_resize as in TF-slim."),
    interpolation_option,
    click.option("--channel-order", help="Channel order of the model's input: RGB or BGR."),
    click.option(
        "--mean",
        metavar="R,G,B",
        help="Mean to subtract from pixels in 0..1; one number stands for all channels.",
    ),
    click.option(
        "--std",
        metavar="R,G,B",
        help="Standard deviation of pixels in 0..1 to divide by after that; or one number.",
    ),
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
skip_bad_images_option = click.option(
    "--skip-bad-images", is_flag=True, default=None, help="Leave out unreadable images."
)
calibration_options = option_group(
    click.option(
        "--calibration",
        "--calibration-data-path",
        type=PATH,
        help="Calibration images: a folder or a set file.",
    ),
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
    "--labels", type=PATH, help="File of class names, one per line, in logit order."
)
validation_options = option_group(
    click.option(
        "--validation",
        type=PATH,
        help="Validation images: a folder of class folders, a folder of images or a set file.",
    ),
    click.option("--validation-split", help="Split of the set file of --validation."),
    labels_option,
    skip_bad_images_option,
)
precision_options = option_group(
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
        help="Whether tensors that cannot be negative use all 255 levels of int8, or half of them.",
    ),
    click.option(
        "--keep-float", metavar="GROUP[,GROUP]", help="Groups that stay float in an int8 graph."
    ),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=None,
        help="Whether to correct each bias by what int8 adds to the mean output of its layer.",
    ),
)
batch_options = option_group(
    click.option("--batch", type=int, help="Static batch size."),
    click.option(
        "--dynamic-batch",
        metavar="MIN:OPT:MAX",
        help="Range of batch sizes, instead of --batch.",
    ),
)
device_options = option_group(
    click.option("--jetpack", help="JetPack release of a Jetson, such as 6.2; by default all."),
    click.option("--tensorrt", help="TensorRT version of the device; by default its JetPacks'."),
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
        help="Gate: largest top-1 drop in percentage points; to meet it build keeps groups of an "
        "int8 graph in float.",
    ),
    click.option("--min-agreement", type=float, help="Gate: share of equal top-1 classes, 0..1."),
    click.option("--min-sqnr", type=float, help="Gate: SQNR of the centred logits in dB."),
    click.option(
        "--min-speedup",
        type=float,
        help="Gate: over FP32 in the same engine library. By default INT8 fails if it is slower "
        "beyond doubt; 0 allows any speed.",
    ),
)


@contextmanager
def open_terminal(flags: Mapping[str, Any]) -> Iterator[Terminal]:
    """The terminal, as --verbose, --quiet and --log-file ask; an error in the block is logged."""
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


def read_recipe(flags: Mapping[str, Any], terminal: Terminal) -> Recipe:
    """Read the recipe of --recipe, or the one of this folder, and override its keys by flags.

    Without --recipe, no recipe is read if --model, --checkpoint or --onnx is given.

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
    return load_recipe(path, recipe_overrides(flags))


def recipe_overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the flags on the command line, by the recipe key that each overrides."""
    overrides: dict[str, Any] = {}
    for flag, key in OVERRIDES.items():
        value = flags.get(flag)
        if value is None or value == ():
            continue
        if flag in _PARSERS:
            value = _PARSERS[flag](value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        overrides |= dict.fromkeys((key, _SECOND_KEYS.get(flag, key)), value)
    return overrides


def parse_model_options(pairs: tuple[str, ...]) -> dict[str, Any]:
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


def _parse_numbers(text: str) -> float | list[float]:
    """The number or the numbers in ``"0.485,0.456,0.406"``; the recipe reader checks them."""
    try:
        numbers = [float(part) for part in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    except ValueError as error:
        raise InputError(
            f"'{text}' is not a list of numbers", hint="write them as 0.485,0.456,0.406"
        ) from error


def read_flags(kind: type[_R], flags: Mapping[str, Any]) -> _R:
    """A record of ``kind``; each field has the value of the flag of the same name."""
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind)})


def given_flags(candidates: Sequence[str], flags: DataclassInstance) -> list[str]:
    """The flags among ``candidates`` that were given, as users type them: ``--max-images``.

    None, () and False stand for flags that were left out; 0 is a value that was given.
    """
    values = {name: getattr(flags, name) for name in candidates}
    return [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if value not in (None, ()) and value is not False
    ]


def split_names(text: str | None) -> list[str]:
    """The names in a text such as ``"b,a"``, sorted and without repetition."""
    return sorted({part.strip() for part in (text or "").split(",")} - {""})


# Flag whose text holds several values -> parser of the text.
_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "option": parse_model_options,
    "mean": _parse_numbers,
    "std": _parse_numbers,
    "keep_float": split_names,
}
