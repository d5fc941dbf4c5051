"""The command line: start-up imports, help of every command, exit codes, flags to recipe."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge_inception.cli import main
from edge_inception.cli._options import recipe_overrides
from edge_inception.cli.latency import parse_share
from edge_inception.latency.regression import Gate
from edge_inception.recipe.reader import load_recipe, tomllib
from edge_inception.recipe.sections import Sections
from edge_inception.recipe.template import STARTER

HEAVY = {
    "torch",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxsim",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "openvino",
    "PIL",
    "rich",
}
COMMANDS = sorted(main.cli.commands)


def test_compare_asks_for_what_the_gate_asks_for():
    """``compare`` and ``latency_gate`` have the same defaults, without importing the gate."""
    usual = {option.name: option.default for option in main.cli.commands["compare"].params}
    gate = Gate()
    assert (usual["pairs"], usual["most_pairs"]) == (gate.pairs, gate.max_pairs)
    assert parse_share(usual["max_regression"]) == gate.delta


def test_help_imports_no_heavy_library():
    """After --help, sys.modules holds none of the heavy libraries."""
    code = (
        "import sys, edge_inception.cli.main as c; c.run(['--help']); "
        "print('MODULES', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    """Each command explains itself and exits 0."""
    assert main.run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: edge-inception {command}")
    assert len(text.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["build", "--nonsense"], 2, "No such option"),
        (["build", "--recipe", "absent.toml"], 3, "absent.toml"),
        (["build", "--model", "inception_v5", "--checkpoint", "x"], 3, "did you mean"),
        (["build", "--model", "inception_v4"], 3, "--checkpoint"),
        (["simplify", "absent.onnx", "--out", "x.onnx"], 3, "absent.onnx"),
        (["classify", "--engine", "absent.blob", "a.png"], 3, "absent.blob"),
        (["report", "absent.json"], 3, "absent.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_a_documented_code(
    arguments, code, words, capsys, tmp_path, monkeypatch
):
    """Wrong input ends in its exit code with one error line, and no traceback."""
    monkeypatch.chdir(tmp_path)
    assert main.run(arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    if code == 3:
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"precision": "fp16"}, {"build.precision": "fp16"}),
        ({"target": ("cpu", "rtx")}, {"build.targets": ["cpu", "rtx"]}),
        ({"option": ("width=0.25", "name=x")}, {"model.options": {"width": 0.25, "name": "x"}}),
        ({"checkpoint": Path("a b.pt")}, {"model.checkpoint": "a b.pt"}),
        (
            {"max_drop": 0.5, "min_sqnr": None},
            {"gates.max_drop_pp": 0.5, "search.max_drop_pp": 0.5},
        ),
        ({"threads": 0}, {"build.threads": 0}),
        ({"mean": "0.485,.456,4e-1"}, {"preprocess.mean": [0.485, 0.456, 0.4]}),
        ({"head": "topk:5"}, {"model.head": "topk:5"}),
        ({"keep_float": "b, a,b"}, {"quantize.keep_float": ["a", "b"]}),
    ],
)
def test_flags_become_recipe_keys(flags, wanted):
    """A flag that is given overrides its recipe key; one that is not leaves it alone."""
    assert recipe_overrides(flags) == wanted


def test_every_override_is_a_recipe_key(tmp_path):
    """No flag writes a key that the recipe reader does not know."""
    starter = tmp_path / "starter.toml"
    assert main.run(["init", str(starter)]) == 0
    values = {
        "model.name": "inception_v4",
        "model.options": {"width": 0.5},
        "model.head": "softmax",
        "model.fold_preprocessing": "uint8",
        "preprocess.crop": "before_resize",
        "preprocess.channel_order": "BGR",
        "preprocess.mean": [0.5, 0.5, 0.5],
        "preprocess.std": [0.5, 0.5, 0.5],
        "preprocess.input_size": 299,
        "preprocess.crop_fraction": 0.875,
        "preprocess.interpolation": "bilinear",
        "data.skip_bad_images": True,
        "build.targets": ["cpu"],
        "build.compute_capabilities": ["8.9"],
        "build.jetpack": "6.2",
        "build.tensorrt": "10.3",
        "build.dla": True,
        "build.bundle": True,
        "quantize.float_rest": "fp32",
        "quantize.typing": "cpu",
        "quantize.keep_float": ["a"],
        "quantize.bias_correction": False,
        "quantize.fold_zero_points": True,
        "search.drop_type": "relative",
        "build.dynamic_batch": None,
    }
    from edge_inception.cli._options import OVERRIDES

    for key in OVERRIDES.values():
        if key == "build.dynamic_batch":
            continue
        section = key.partition(".")[0]
        is_number = section == "gates" or key.endswith(
            ("batch", "threads", "max_images", "num_classes")
        )
        fallback = 1 if is_number else "int8" if key.endswith("precision") else "x"
        needed = {"search.max_drop_pp": 1.0} if section == "search" else {}
        load_recipe(starter, {**needed, key: values.get(key, fallback)})


def test_init_refuses_to_overwrite(tmp_path, capsys):
    """A recipe that exists is kept unless --force."""
    path = tmp_path / "r.toml"
    path.write_text("mine", encoding="utf-8")
    assert main.run(["init", str(path)]) == 3
    assert path.read_text(encoding="utf-8") == "mine"
    assert "--force" in capsys.readouterr().err
    assert main.run(["init", str(path), "--force"]) == 0
    assert path.read_text(encoding="utf-8") != "mine"


def test_starter_recipe_is_valid(tmp_path):
    """What init writes is read without complaint."""
    path = tmp_path / "r.toml"
    main.run(["init", str(path)])
    recipe = load_recipe(path)
    assert recipe.model == "inception_v4"
    assert recipe.checkpoint == tmp_path.resolve() / "my.safetensors"


# What the starter says with all its commented keys and sections in force.
WHOLE_STARTER = tomllib.loads(re.sub(r"(?m)^# (?=\[|\w+ = )", "", STARTER))
STARTER_KEYS = {
    f"{section}.{key}": value
    for section, table in WHOLE_STARTER.items()
    if section != "schema"
    for key, value in table.items()
}


def test_starter_recipe_shows_every_key():
    """The starter is the list of what a recipe may say."""
    sections = {one.name: one.type for one in msgspec.structs.fields(Sections)}
    known = {f"{name}.{key}" for name, kind in sections.items() for key in kind.__struct_fields__}
    assert STARTER_KEYS.keys() == known


@pytest.mark.parametrize("name", STARTER_KEYS)
def test_commented_lines_of_the_starter_are_valid(name, tmp_path):
    """Each key is read with the value it has in its line; alternatives replace one another."""
    path = tmp_path / "starter.toml"
    path.write_text(STARTER, encoding="utf-8")
    needed = {"search.max_drop_pp": 1.0} if name.startswith("search.") else {}
    load_recipe(path, {**needed, name: STARTER_KEYS[name]})


def test_models_lists_the_published_figures(capsys):
    """Parameters and MACs of the paper's network are in the list, also as JSON."""
    assert main.run(["models", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert records["inception_v4"]["num_parameters"] == 42_679_816
    assert main.run(["models"]) == 0
    assert "42,679,816" in capsys.readouterr().out


def test_interrupt_is_130(monkeypatch, capsys):
    """Ctrl-C ends with 130 and says how to go on."""

    def interrupted(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.cli, "main", interrupted)
    assert main.run(["models"]) == main.INTERRUPTED
    assert "same command" in capsys.readouterr().err


def test_closed_pipe_is_quiet():
    """`edge-inception models | head -0` prints no traceback."""
    command = f"{shlex.quote(sys.executable)} -m edge_inception models --json | true"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_models_names_a_stage_table(capsys):
    """NAME shows forms, families and stages; the last row adds up to the published size."""
    assert main.run(["models", "inception_resnet_v2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["total", "55,843,464", "13,155.8"]
    # ten blocks of one kind are one row
    (row,) = [line for line in lines if line.startswith("repeat.0-9")]
    assert row.split()[-3] == "320x35x35"
    assert max(len(line) for line in lines if "http" not in line) <= 80


def test_models_shows_a_variant(capsys):
    """Options and input size change the table, also as JSON."""
    arguments = ["models", "resnet50", "--option", "width=0.5", "--input-size", "64", "--json"]
    assert main.run(arguments) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert stages[0]["cost"]["shape"] == [32, 32, 32]


WRONG_NORM = (
    "error: cannot build googlenet with {'norm': 'x'}: norm is 'x', wanted one of 'bn', 'lrn'"
)
TOO_SMALL = (
    "error: inception_v4 cannot take 50 x 50 images: the output of layer features.18 would be empty"
)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["models", "inception_v5"], "error: no model named 'inception_v5'"),
        (
            ["models", "googlenet", "--option", "kernel=5"],
            "error: no option of googlenet named 'kernel'",
        ),
        (["models", "googlenet", "--option", "norm=x"], WRONG_NORM),
        (["models", "inception_v4", "--input-size", "50"], TOO_SMALL),
        (["models", "--input-size", "50"], "error: these options are about one model"),
    ],
)
def test_models_refuses_what_cannot_be(arguments, line, capsys):
    """Each refusal is one exact line and exit code 3."""
    assert main.run(arguments) == 3
    assert capsys.readouterr().err.splitlines()[0] == line


def test_the_defaults_in_the_help_are_those_of_the_code():
    """Where a default depends on what is trained or calibrated, the help says both in words."""
    from edge_inception.search.options import SearchOptions
    from edge_inception.training.options import TrainOptions
    from edge_inception.training.qat import QatOptions

    def text(command, option):
        (found,) = (one for one in main.cli.commands[command].params if one.name == option)
        return found.help

    plain = {one.name: one.default for one in dataclasses.fields(TrainOptions)}
    qat = {one.name: one.default for one in dataclasses.fields(QatOptions)}
    assert text("train", "epochs").endswith(f": {plain['epochs']}, with --qat {qat['epochs']}.")
    assert plain["batch"] == qat["batch"]
    assert text("train", "batch").endswith(f": {plain['batch']}.")
    rates = [float(word) for word in re.findall(r"0\.0\d+", text("train", "learning_rate"))]
    assert rates == [plain["learning_rate"], qat["learning_rate"]]
    assert f": {plain['start_size']};" in text("train", "start_size")
    assert text("train", "distillation").endswith(f": {qat['distillation']:g}.")
    most = SearchOptions.__dataclass_fields__["max_images"].default
    assert f"{most} are used" in text("sensitivity", "images")
