"""Every family's names lead to our tensors: names written out here, as their publishers have them.

The names of TF-slim, Keras and Caffe below are spelled from the publishers' network definitions and
not from the tables under test. The oracle of a map is the state dict under our own names.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_inception import registry
from edge_inception.checkpoints import keymaps
from edge_inception.checkpoints.load import load

NARROW = {"width": 0.125}


def block(scope, text):
    """``"0:0a_1x1 1:0a_1x1,0b_3x3"`` as scope/Branch_0/Conv2d_0a_1x1, ... in order."""
    return [
        f"{scope}/Branch_{branch}/{name if name.startswith('Conv') else 'Conv2d_' + name}"
        for branch, names in (part.split(":") for part in text.split())
        for name in names.split(",")
    ]


def blocks(scopes, text):
    return [unit for scope in scopes.split() for unit in block(scope, text)]


A3 = "0:0a_1x1 1:0a_1x1,0b_5x5 2:0a_1x1,0b_3x3,0c_3x3 3:0b_1x1"
C3 = "0:0a_1x1 1:0a_1x1,0b_1x7,0c_7x1 2:0a_1x1,0b_7x1,0c_1x7,0d_7x1,0e_1x7 3:0b_1x1"
E3 = "2:0a_1x1,0b_3x3,0c_1x3,0d_3x1 3:0b_1x1"
V1_BLOCK = "0:0a_1x1 1:0a_1x1,0b_3x3 2:0a_1x1,0b_3x3 3:0b_1x1"
V2_BLOCK = "0:0a_1x1 1:0a_1x1,0b_3x3 2:0a_1x1,0b_3x3,0c_3x3 3:0b_1x1"
V2_HALF = "0:0a_1x1,1a_3x3 1:0a_1x1,0b_3x3,1a_3x3"
RES35 = "0:1x1 1:0a_1x1,0b_3x3 2:0a_1x1,0b_3x3,0c_3x3"
RES17, RES8 = "0:1x1 1:0a_1x1,0b_1x7,0c_7x1", "0:1x1 1:0a_1x1,0b_1x3,0c_3x1"
RED_A, RED_B = (
    "0:1a_3x3 1:0a_1x1,0b_3x3,1a_3x3",
    "0:0a_1x1,1a_3x3 1:0a_1x1,1a_3x3 2:0a_1x1,0b_3x3,1a_3x3",
)
STEM3 = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


def repeated(name, count, text):
    """Convolutions of a residual block, and at its end the linear one, marked with ``=``."""
    scopes = [f"{name}_{number}" for number in range(1, count + 1)]
    return [unit for scope in scopes for unit in (*block(scope, text), f"={scope}/Conv2d_1x1")]


# Units in the order in which our modules are defined; "=": biases instead of a batch norm.
SLIM = {
    "googlenet": ("InceptionV1", 230, [
        "Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3",
        *blocks("Mixed_3b Mixed_3c Mixed_4b Mixed_4c Mixed_4d Mixed_4e Mixed_4f", V1_BLOCK),
        *block("Mixed_5b", "0:0a_1x1 1:0a_1x1,0b_3x3 2:0a_1x1,0a_3x3 3:0b_1x1"),
        *block("Mixed_5c", V1_BLOCK), "=Logits/Conv2d_0c_1x1",
    ]),
    "inception_v2": ("InceptionV2", 277, [
        "~Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3",
        *blocks("Mixed_3b Mixed_3c", V2_BLOCK), *block("Mixed_4a", V2_HALF),
        *blocks("Mixed_4b Mixed_4c Mixed_4d Mixed_4e", V2_BLOCK), *block("Mixed_5a", V2_HALF),
        *blocks("Mixed_5b Mixed_5c", V2_BLOCK), "=Logits/Conv2d_1c_1x1",
    ]),
    "inception_v3": ("InceptionV3", 388, [
        *STEM3, *block("Mixed_5b", A3),
        *block("Mixed_5c", "0:0a_1x1 1:0b_1x1,Conv_1_0c_5x5 2:0a_1x1,0b_3x3,0c_3x3 3:0b_1x1"),
        *block("Mixed_5d", A3), *block("Mixed_6a", "0:1a_1x1 1:0a_1x1,0b_3x3,1a_1x1"),
        *blocks("Mixed_6b Mixed_6c Mixed_6d Mixed_6e", C3),
        "AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a_5x5", "=AuxLogits/Conv2d_2b_1x1",
        *block("Mixed_7a", "0:0a_1x1,1a_3x3 1:0a_1x1,0b_1x7,0c_7x1,1a_3x3"),
        *block("Mixed_7b", f"0:0a_1x1 1:0a_1x1,0b_1x3,0b_3x1 {E3}"),
        *block("Mixed_7c", f"0:0a_1x1 1:0a_1x1,0b_1x3,0c_3x1 {E3}"),
        "=Logits/Conv2d_1c_1x1",
    ]),
    "inception_v4": ("InceptionV4", 608, [
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Mixed_3a/Branch_1/Conv2d_0a_3x3",
        *block("Mixed_4a", "0:0a_1x1,1a_3x3 1:0a_1x1,0b_1x7,0c_7x1,1a_3x3"),
        "Mixed_5a/Branch_0/Conv2d_1a_3x3", *blocks("Mixed_5b Mixed_5c Mixed_5d Mixed_5e", V2_BLOCK),
        *block("Mixed_6a", RED_A),
        *blocks("Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_6f Mixed_6g Mixed_6h", C3),
        *block("Mixed_7a", "0:0a_1x1,1a_3x3 1:0a_1x1,0b_1x7,0c_7x1,1a_3x3"),
        *blocks(
            "Mixed_7b Mixed_7c Mixed_7d",
            "0:0a_1x1 1:0a_1x1,0b_1x3,0c_3x1 2:0a_1x1,0b_3x1,0c_1x3,0d_1x3,0e_3x1 3:0b_1x1",
        ),
        "AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a", "=AuxLogits/Aux_logits",
        "=Logits/Logits",
    ]),
    "inception_resnet_v2": ("InceptionResnetV2", 908, [
        *STEM3, *block("Mixed_5b", "0:1x1 1:0a_1x1,0b_5x5 2:0a_1x1,0b_3x3,0c_3x3 3:0b_1x1"),
        *repeated("Repeat/block35", 10, RES35), *block("Mixed_6a", RED_A),
        *repeated("Repeat_1/block17", 20, RES17),
        "AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a_5x5", "=AuxLogits/Logits",
        *block("Mixed_7a", RED_B), *repeated("Repeat_2/block8", 9, RES8),
        *block("Block8", RES8), "=Block8/Conv2d_1x1", "Conv2d_7b_1x1", "=Logits/Logits",
    ]),
    "inception_resnet_v1": ("InceptionResnetV1", 490, [
        *STEM3, "Conv2d_4b_3x3", *repeated("Repeat/block35", 5, RES35), *block("Mixed_6a", RED_A),
        *repeated("Repeat_1/block17", 10, RES17), *block("Mixed_7a", RED_B),
        *repeated("Repeat_2/block8", 5, RES8), *block("Block8", RES8), "=Block8/Conv2d_1x1",
        "Bottleneck",
    ]),
}  # fmt: skip


def units_of(state):
    """Our modules with weights in the order of definition: path -> its tensors by ending."""
    units: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        path, _, ending = key.rpartition(".")
        path = re.sub(r"\.(conv|bn|depthwise|pointwise)$", "", path)
        inner = key[len(path) + 1 :]
        units.setdefault(re.sub("^last_bn$", "last_linear", path), {})[
            f"bn.{ending}" if path == "last_bn" else inner
        ] = tensor
    return units


def random_state(name, **options):
    """Weights and statistics by our keys; factors of batch norms are 1, as TensorFlow has none."""
    torch.manual_seed(3)
    model = registry.model(name).build(**options).eval()
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point() and "bn" in key and not key.endswith("weight"):
            tensor.normal_()
    return model, state


def tf_kernel(tensor):
    """out, in, rows, columns -> rows, columns, in, out; out, in -> in, out."""
    array = tensor.numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


NORM = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def tf_unit(scope, unit, tensors, *, is_conv_head):
    """The variables of one unit as TF-slim stores them."""
    name = f"{scope}/{unit.lstrip('=~')}"
    if unit[0] == "~":
        depthwise = tensors["depthwise.weight"].numpy()  # channels * multiplier, 1, rows, columns
        split = depthwise.reshape(3, -1, *depthwise.shape[2:]).transpose(2, 3, 0, 1)
        return {
            f"{name}/depthwise_weights": split,
            f"{name}/pointwise_weights": tf_kernel(tensors["pointwise.weight"]),
            f"{name}/biases": tensors["pointwise.bias"].numpy(),
        }
    if unit[0] == "=":
        kernel = tf_kernel(tensors["weight"])
        kernel = kernel[None, None] if is_conv_head and kernel.ndim == 2 else kernel
        return {f"{name}/weights": kernel, f"{name}/biases": tensors["bias"].numpy()}
    weight = tensors["conv.weight"] if "conv.weight" in tensors else tensors["weight"]
    norms = {f"{name}/BatchNorm/{tf}": tensors[f"bn.{ours}"].numpy() for tf, ours in NORM.items()}
    return {f"{name}/weights": tf_kernel(weight), **norms}


def slim_dump(name, state):
    scope, count, units = SLIM[name]
    ours = units_of(state)
    assert len(units) == len(ours)
    is_conv_head = name in {"googlenet", "inception_v2", "inception_v3"}
    dump = {}
    for unit, tensors in zip(units, ours.values(), strict=True):
        dump |= tf_unit(scope, unit, tensors, is_conv_head=is_conv_head)
    return dump, count


def slim_options(name):
    spec = registry.model(name)
    family = next(family for family in spec.families if family.name == "slim")
    has_aux = "aux" in spec.options and name != "googlenet"
    return {**family.options, **NARROW, **({"aux": True} if has_aux else {})}


def assert_loaded(loaded, state):
    got = loaded.model.state_dict()
    assert got.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(got[key], tensor), key


@pytest.mark.parametrize("name", SLIM)
def test_slim_names_lead_to_our_tensors(name, tmp_path):
    """Every TF-slim variable arrives where the same network under our names has it, bit by bit."""
    options = slim_options(name)
    _, state = random_state(name, num_classes=1000, **options)
    dump, count = slim_dump(name, state)
    assert len(dump) == count
    np.savez(tmp_path / "dump.npz", **{f"{key}:0": value for key, value in dump.items()})
    loaded = load(name, tmp_path / "dump.npz", options=options)
    assert loaded.family == "slim"
    assert_loaded(loaded, state)


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2"])
def test_slim_auxiliary_head_and_background_are_left_out(name, tmp_path):
    """Without aux the head is left out; of 1001 rows the first goes; both are said."""
    options = slim_options(name)
    _, state = random_state(name, num_classes=1001, **options)
    dump, _ = slim_dump(name, state)
    np.savez(tmp_path / "dump.npz", **dump)
    loaded = load(name, tmp_path / "dump.npz", options={**options, "aux": False})
    assert "dropped row 0 of the head, which is the background" in loaded.notes
    assert any(re.fullmatch(r"left out 1\d tensors of heads: .*", note) for note in loaded.notes)
    head = {"inception_v3": "fc", "inception_v4": "last_linear"}.get(name, "classif")
    assert torch.equal(loaded.model.state_dict()[f"{head}.weight"], state[f"{head}.weight"][1:])


def test_slim_training_checkpoint_gives_its_moving_averages(tmp_path):
    """Shadows are preferred, slots and counters are left out, and all of it is said."""
    options = slim_options("googlenet")
    _, state = random_state("googlenet", num_classes=1000, **options)
    dump, _ = slim_dump("googlenet", state)
    content: dict[str, np.ndarray] = {"global_step": np.array(7)}
    for key, value in dump.items():
        content[key] = np.zeros_like(value)
        content[f"{key}/ExponentialMovingAverage"] = value
        content[f"{key}/RMSProp"] = content[f"{key}/RMSProp_1"] = np.ones_like(value)
    np.savez(tmp_path / "dump.npz", **content)
    loaded = load("googlenet", tmp_path / "dump.npz", options=options)
    assert "took the moving average of 230 variables, not their last value" in loaded.notes
    assert "left out 461 variables of the optimizer" in loaded.notes
    assert_loaded(loaded, state)


def test_facenet_dump_with_its_classifier_leaves_it_out(tmp_path):
    """davidsandberg's Logits lie outside the network's scope and are not part of the embedding."""
    options = slim_options("inception_resnet_v1")
    _, state = random_state("inception_resnet_v1", num_classes=1000, **options)
    dump, _ = slim_dump("inception_resnet_v1", state)
    more = {
        "Logits/weights": np.ones((512, 9), np.float32),
        "Logits/biases": np.ones(9, np.float32),
    }
    np.savez(tmp_path / "dump.npz", **dump, **more)
    loaded = load("inception_resnet_v1", tmp_path / "dump.npz", options=options)
    assert "left out 2 tensors of heads: logits" in loaded.notes
    assert_loaded(loaded, state)


def keras_names(name, start, *, is_keras3, bn):
    """Names of conv units in the order in which keras.applications makes them."""
    number = lambda i: f"_{start + i}" if is_keras3 or start + i else ""  # noqa: E731
    count = {"inception_v3": 94, "inception_resnet_v2": 203}[name]
    return [(f"conv2d{number(i)}", bn.format(number(i))) for i in range(count)]


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
@pytest.mark.parametrize(
    ("start", "is_keras3", "bn"),
    [
        (0, False, "batch_normalization{}"),
        (94, True, "batch_normalization{}"),
        (1, False, "conv2d{}_bn"),
    ],
    ids=["keras2", "keras3", "bn-suffix"],
)
def test_keras_names_lead_to_our_tensors(name, start, is_keras3, bn, tmp_path):
    """Auto-numbered layers are taken in numerical order, whatever order the file has."""
    spec = registry.model(name)
    family = next(family for family in spec.families if family.name == "keras")
    options = {**family.options, **NARROW}
    _, state = random_state(name, num_classes=1000, **options)
    colon = "" if is_keras3 else ":0"
    names = iter(keras_names(name, start, is_keras3=is_keras3, bn=bn))
    residual = iter(
        [f"block35_{i}_conv" for i in range(1, 11)]
        + [f"block17_{i}_conv" for i in range(1, 21)]
        + [f"block8_{i}_conv" for i in range(1, 11)]
    )
    dump = {}
    for path, tensors in units_of(state).items():
        if "bn.bias" not in tensors:
            layer = next(residual) if path.endswith("conv2d") else "predictions"
            dump[f"{layer}/kernel{colon}"] = tf_kernel(tensors["weight"])
            dump[f"{layer}/bias{colon}"] = tensors["bias"].numpy()
            continue
        conv, norm = ("conv_7b", "conv_7b_bn") if path == "conv2d_7b" else next(names)
        dump[f"{conv}/kernel{colon}"] = tf_kernel(tensors["conv.weight"])
        dump |= {f"{norm}/{tf}{colon}": tensors[f"bn.{ours}"].numpy() for tf, ours in NORM.items()}
    np.savez(tmp_path / "dump.npz", **dict(sorted(dump.items())))
    loaded = load(name, tmp_path / "dump.npz", options=options)
    assert loaded.family == "keras"
    assert_loaded(loaded, state)


def test_cadene_bninception_names_lead_to_our_tensors(tmp_path):
    """Flat names, batch norms stored as [1, C]."""
    _, state = random_state("inception_v2", num_classes=1000, **NARROW)
    flat = {}
    for key, tensor in state.items():
        if key.startswith("last_linear"):
            theirs = key
        else:
            path, kind, ending = key.rsplit(".", 2)
            theirs = path.replace(".", "_") + ("_bn." if kind == "bn" else ".") + ending
        is_vector = "_bn." in theirs and tensor.ndim == 1
        flat[theirs] = (tensor[None] if is_vector else tensor).contiguous()
    assert "inception_3a_double_3x3_reduce_bn.running_mean" in flat
    save_file(flat, tmp_path / "cadene.safetensors")
    loaded = load("inception_v2", tmp_path / "cadene.safetensors", options=NARROW)
    assert loaded.family == "cadene"
    assert_loaded(loaded, state)


def test_cadene_inception_resnet_v2_calls_its_head_last_linear(tmp_path):
    """All keys are timm's but the head's."""
    _, state = random_state("inception_resnet_v2", num_classes=1000, **NARROW)
    theirs = {k.replace("classif.", "last_linear."): t for k, t in state.items()}
    save_file(theirs, tmp_path / "cadene.safetensors")
    loaded = load("inception_resnet_v2", tmp_path / "cadene.safetensors", options=NARROW)
    assert loaded.family == "cadene"
    assert_loaded(loaded, state)


@pytest.mark.parametrize("has_logits", [True, False])
def test_facenet_loads_with_and_without_its_classifier(has_logits, tmp_path):
    """facenet-pytorch's keys are ours; logits are left out of an embedding and said."""
    options = {"tail": "facenet", **NARROW}
    _, state = random_state("inception_resnet_v1", num_classes=9, **options)
    more = {"logits.weight": torch.ones(9, 512), "logits.bias": torch.ones(9)} if has_logits else {}
    save_file({**state, **more}, tmp_path / "face.safetensors")
    loaded = load("inception_resnet_v1", tmp_path / "face.safetensors", options=NARROW)
    assert loaded.family == "facenet"
    assert ("left out 2 tensors of heads: logits" in loaded.notes) is has_logits
    assert_loaded(loaded, state)


SAME_NAMES = [
    (spec.name, family.name)
    for spec in registry.models().values()
    for family in spec.families
    if not keymaps.key_map(family.name, spec.name).names
    and not keymaps.key_map(family.name, spec.name).prefixes
]


@pytest.mark.parametrize(("name", "family"), SAME_NAMES)
def test_families_with_our_names_go_there_and_back(name, family, tmp_path):
    """Saved under our names, read as the family's: equal tensors and equal logits."""
    spec = registry.model(name)
    chosen = next(item for item in spec.families if item.name == family)
    model, state = random_state(name, num_classes=5, **{**chosen.options, **NARROW})
    save_file(state, tmp_path / "same.safetensors")
    loaded = load(name, tmp_path / "same.safetensors", family=family, options=NARROW)
    assert_loaded(loaded, state)
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), model(images))


def test_every_family_of_every_network_has_a_key_map():
    """Each family that a network names is known to keymaps."""
    named = {family.name for spec in registry.models().values() for family in spec.families}
    assert named <= set(keymaps.families())
