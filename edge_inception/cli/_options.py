"""Flags that several commands share, and how flags become a recipe.

A command names its own flags as parameters. Those of the terminal and of the recipe stay together
in ``flags``, which ``terminal_of`` and ``recipe_of`` alone look into.
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

_PLACEMENT = f"Of Q/DQ pairs: {', '.join(one.name for one in POLICIES)}; the first is the default."
_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R", bound="DataclassInstance")
PATH = click.Path(path_type=Path)
VERDICT_CODES = {"PASSED": 0, "FAILED": 6, "INCONCLUSIVE": 8}

# Flag -> recipe key. Everything here overrides the recipe.
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
    "max_images": "calibrate.max_images",
    "float_rest": "quantize.float_rest",
    "placement": "quantize.placement",
    "keep_float": "quantize.keep_float",
    "bias_correction": "quantize.bias_correction",
    "max_drop": "gates.max_drop_pp",
    "drop_type": "search.drop_type",
    "min_agreement": "gates.min_agreement",
    "min_sqnr": "gates.min_sqnr_db",
    "min_speedup": "gates.min_speedup",
}


# A flag that says two things: a limit to judge by is also the budget of the search.
_ALSO: Mapping[str, str] = {"max_drop": "search.max_drop_pp"}


def _options(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


terminal_options = _options(
    click.option("--verbose", "-v", "verbosity", flag_value=1, type=int, help="Say more."),
    click.option("--quiet", "-q", "verbosity", flag_value=-1, type=int, help="Only errors."),
    click.option("--log-file", type=PATH, help="Append every line, with a UTC time."),
)
recipe_options = _options(
    click.option("--recipe", type=PATH, help="Recipe TOML; else edge-inception.toml here."),
    click.option("--model", help="Architecture; `edge-inception models` lists them."),
    click.option("--checkpoint", type=PATH, help="safetensors, torch.load or npz file."),
    click.option("--onnx", type=PATH, help="A float ONNX classifier instead of the two."),
    click.option("--checkpoint-format", help="auto (default), or whose names: timm, slim, ..."),
    click.option("--num-classes", type=int, help="Check the checkpoint's head against this."),
    click.option("--option", multiple=True, metavar="KEY=VALUE", help="Model option: width=0.25."),
    click.option("--input-size", "--imgsz", type=int, help="Side of the input in pixels."),
    click.option("--crop-fraction", type=float, help="Share of the image that is cropped, 0..1."),
    click.option("--crop", help="after_resize, or before_resize as TF-slim does."),
    click.option("--interpolation", help="nearest, bilinear, bicubic or lanczos."),
    click.option("--channel-order", help="RGB or BGR: what the model sees."),
    click.option("--mean", metavar="R,G,B", help="Subtracted from pixels of 0..1, by channel."),
    click.option("--std", metavar="R,G,B", help="Divided by after that, by channel."),
)
graph_options = _options(
    click.option("--head", help="logits, softmax or topk:K: what the graph answers."),
    click.option(
        "--fold-preprocessing",
        is_flag=False,
        flag_value="uint8",
        metavar="[none|uint8|uint8-nhwc]",
        help="Put the normalisation into the graph, which then takes pixels; alone: uint8.",
    ),
)
calibration_options = _options(
    click.option("--calibration", "--calibration-data-path", type=PATH, help="Folder or set."),
    click.option("--calibration-split", help="Split of a set file."),
    click.option(
        "--calibrator",
        "--calibration-method",
        help="mse (the default), mse-max, max, entropy, percentile:P, or auto: the best of the "
        "first three.",
    ),
    click.option(
        "--max-images",
        "--subset-size",
        type=int,
        help="Calibrate on at most so many; else build on 512, calibrate on all.",
    ),
)
labels_option = click.option(
    "--labels", type=PATH, help="Class names, one per line, in logit order."
)
skip_option = click.option(
    "--skip-bad-images", is_flag=True, default=None, help="Leave out, and count."
)
validation_options = _options(
    click.option("--validation", type=PATH, help="Class folders, plain images, or a set file."),
    click.option("--validation-split", help="Split of a set file."),
    labels_option,
    skip_option,
)
typing_options = _options(
    click.option(
        "--precision", help="fp32, fp16 or int8; for build also best: the faster of those accurate."
    ),
    click.option("--float-rest", help="fp16 or fp32: the part of an int8 graph that is float."),
    click.option("--placement", metavar="NAME", help=_PLACEMENT),
    click.option("--keep-float", metavar="GROUP[,GROUP]", help="Groups of an int8 graph in float."),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=None,
        help="Take what int8 adds to a layer's mean output off its bias, or do not.",
    ),
)
batch_options = _options(
    click.option("--batch", type=int, help="Static batch size."),
    click.option("--dynamic-batch", metavar="MIN:OPT:MAX", help="Batch range instead."),
)


device_options = _options(
    click.option("--jetpack", help="Of a Jetson, such as 6.2; else all of its releases."),
    click.option("--tensorrt", help="Of the device, such as 10.7; else what its JetPacks ship."),
    click.option("--use-dla", is_flag=True, default=None, help="For the DLA of a Jetson too."),
)
drop_type_option = click.option(
    "--drop-type", help="Of --max-drop on calibration images: absolute pp, or relative percent."
)
gate_options = _options(
    click.option(
        "--max-drop",
        type=float,
        help="Gate: top-1 drop in percentage points; build keeps groups of int8 in float to meet "
        "it.",
    ),
    click.option("--min-agreement", type=float, help="Gate: share of equal top-1, 0..1."),
    click.option("--min-sqnr", type=float, help="Gate: SQNR of the centred logits in dB."),
    click.option("--min-speedup", type=float, help="Gate: over the same engine library at f32."),
)


@contextmanager
def terminal_of(flags: Mapping[str, Any]) -> Iterator[Terminal]:
    """The terminal that --verbose, --quiet and --log-file ask for; errors go to the log too."""
    from edge_inception.cli._terminal import Terminal

    terminal = Terminal(verbosity=flags["verbosity"] or 0, log_file=flags["log_file"])
    try:
        yield terminal
    except EdgeInceptionError as error:
        terminal.log(f"error: {error}")
        raise
    finally:
        terminal.close()


def say_made(terminal: Terminal, made: Artifact) -> None:
    """Notes and counts of a finished stage on stderr, its path on stdout."""
    from edge_inception.pipeline.runner import told
    from edge_inception.sidecar import ModelDetails

    if isinstance(made.details, ModelDetails):
        for note in made.details.checkpoint_notes or ():
            terminal.note(f"checkpoint: {note}")
    terminal.note(told(made.counts))
    terminal.detail(told(made.counts, is_full=True))
    click.echo(f"{made.path}")


def recipe_of(flags: Mapping[str, Any], terminal: Terminal) -> Recipe:
    """The recipe that is looked up, with the flags on top; says which one is in use."""
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
    """Recipe keys and values of the flags that were given."""
    chosen: dict[str, Any] = {}
    for flag, key in OVERRIDES.items():
        value = flags.get(flag)
        if value is None or value == ():
            continue
        if flag in _READERS:
            chosen[key] = _READERS[flag](value)
        elif isinstance(value, Path):
            chosen[key] = str(value)
        else:
            chosen[key] = list(value) if isinstance(value, tuple) else value
        if flag in _ALSO:
            chosen[_ALSO[flag]] = chosen[key]
    return chosen


def model_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``("width=0.25",)`` as ``{"width": 0.25}``.

    Raises:
        InputError: No equals sign.
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
    """``"0.485,0.456,0.406"`` as numbers; the recipe's reader counts them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"'{text}' is not a list of numbers", hint="write them as 0.485,0.456,0.406"
        ) from error


def record_of(kind: type[_R], flags: Mapping[str, Any]) -> _R:
    """The flags of a command whose record has a field for each of its own."""
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind)})


def given_flags(of: Sequence[str], flags: DataclassInstance) -> list[str]:
    """Those of the flags that the command line has, 0 included, as they are written there."""
    values = {name: getattr(flags, name) for name in of}
    return [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if value not in (None, ()) and value is not False
    ]


def names(text: str | None) -> list[str]:
    """``"a,b"`` as sorted names, each once."""
    return sorted({part.strip() for part in (text or "").split(",")} - {""})


# Flags whose text is more than one value.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "option": model_options,
    "mean": _numbers,
    "std": _numbers,
    "keep_float": names,
}
