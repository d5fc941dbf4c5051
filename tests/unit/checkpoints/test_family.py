"""Whose checkpoint it is: told by keys and evidence, said aloud, and never guessed."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_inception import registry
from edge_inception.checkpoints.load import load
from edge_inception.cli import main
from edge_inception.errors import InputError


def state_of(name, num_classes=1000, **options):
    """A small network's random weights by our keys."""
    torch.manual_seed(0)
    spec = registry.model(name)
    return spec.build(num_classes=num_classes, width=0.125, **options).state_dict()


@pytest.fixture
def saved(tmp_path):
    def save(state, **metadata):
        path = tmp_path / "weights.safetensors"
        save_file({k: t.contiguous() for k, t in state.items()}, path, metadata=metadata or None)
        return path

    return save


def narrow(name, path, family="auto", **more):
    return load(
        name, path, family=family, options={"width": 0.125, **more.pop("options", {})}, **more
    )


def refused(*arguments, **more):
    with pytest.raises(InputError) as caught:
        narrow(*arguments, **more)
    return caught.value


def test_families_that_differ_in_options_are_not_guessed_between(saved, capsys):
    """torchvision's and timm's inception_v3 have the same keys: exact line, exit code 3."""
    path = saved(state_of("inception_v3"))
    error = refused("inception_v3", path)
    assert str(error) == (
        f"{path} has the keys of several families of inception_v3, which need other options or "
        "pixels: timm, torchvision"
    )
    assert error.hint == "say whose it is: --checkpoint-format timm or torchvision"
    arguments = ["export", "--model", "inception_v3", "--checkpoint", str(path)]
    assert main.run([*arguments, "--option", "width=0.125", "--out", str(path) + ".onnx"]) == 3
    assert f"error: {error}\nhint: {error.hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_asked_family_decides_options_and_preprocessing(saved, family):
    """Asked for, either family is taken, with its own options and pixels."""
    loaded = narrow("inception_v3", saved(state_of("inception_v3")), family)
    published = next(f for f in registry.model("inception_v3").families if f.name == family)
    assert loaded.preprocess == published.preprocess
    assert loaded.options == {**published.options, "width": 0.125}
    assert loaded.notes == (f"family {family}, as asked for",)


def test_users_option_wins_over_the_familys(saved):
    """What is asked for explicitly is on top of what the family needs."""
    path = saved(state_of("inception_v3"))
    loaded = narrow("inception_v3", path, "torchvision", options={"transform_input": False})
    assert loaded.options["transform_input"] is False


def test_auxiliary_head_tells_torchvision_and_is_left_out(saved):
    """Only torchvision's inception_v3 carries an auxiliary head; it is counted and left out."""
    loaded = narrow("inception_v3", saved(state_of("inception_v3", aux=True)))
    assert loaded.family == "torchvision"
    assert loaded.notes == (
        "family torchvision, by its auxiliary head",
        "left out 14 tensors of heads: AuxLogits",
    )


def test_hash_of_a_published_file_tells_its_family(saved, monkeypatch):
    """A file whose sha256 is in the name of a published one is that file."""
    path = saved(state_of("inception_v3"))
    spec = registry.model("inception_v3")
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    torchvision = spec.families[1]
    claim = dataclasses.replace(torchvision.published[0], url=f"https://x/inception-{start}.pth")
    changed = dataclasses.replace(torchvision, published=(claim,))
    families = (spec.families[0], changed, *spec.families[2:])
    known = {**registry.models(), spec.name: dataclasses.replace(spec, families=families)}
    monkeypatch.setattr(registry, "models", lambda: known)
    assert narrow("inception_v3", path).notes == (
        "family torchvision, the published file by its hash",
    )


def test_families_that_differ_in_resizing_are_chosen_between_aloud(saved):
    """timm's and Cadene's inception_v4 show the network the same values: the first, and said."""
    loaded = narrow("inception_v4", saved(state_of("inception_v4")))
    assert loaded.family == "timm"
    assert loaded.notes == (
        (
            "family timm by its keys, which cadene shares; they differ in how images are resized "
            "(--checkpoint-format)"
        ),
    )


@pytest.mark.parametrize(("head", "family"), [("classif", "timm"), ("last_linear", "cadene")])
def test_the_name_of_the_head_tells_timm_from_cadene(saved, head, family):
    """Of Inception-ResNet-v2 one publisher's name for the head is not the other's."""
    state = state_of("inception_resnet_v2")
    path = saved({k.replace("classif.", f"{head}."): t for k, t in state.items()})
    assert narrow("inception_resnet_v2", path).notes == (f"family {family}, by its keys",)


def test_resnets_of_three_recipes_are_chosen_between_aloud(saved):
    """They differ in how photos are resized alone: the first weights of torchvision, and said."""
    loaded = narrow("resnet50", saved(state_of("resnet50")))
    assert loaded.preprocess.crop_fraction == 224 / 256
    assert loaded.notes == (
        (
            "family torchvision by its keys, which torchvision_v2, timm share; they differ in how "
            "images are resized (--checkpoint-format)"
        ),
    )


@pytest.mark.parametrize(
    ("family", "crop_fraction", "interpolation"),
    [("torchvision_v2", 224 / 232, "bilinear"), ("timm", 0.95, "bicubic")],
)
def test_resnets_are_cropped_as_their_publisher_does(saved, family, crop_fraction, interpolation):
    """torchvision 0.28 resizes for IMAGENET1K_V2 to 232; timm's recipes a1, a1h and a2 crop .95."""
    how = narrow("resnet50", saved(state_of("resnet50")), family).preprocess
    assert (how.crop_fraction, how.interpolation) == (crop_fraction, interpolation)


def test_a_spoilt_file_of_torchvision_is_not_called_timms(saved):
    """Where families miss as many keys, the auxiliary head tells which is nearest."""
    state = state_of("inception_v3", aux=True)
    del state["Mixed_6a.branch3x3.conv.weight"]
    path = saved(state)
    assert str(refused("inception_v3", path)) == (
        f"{path} does not fit inception_v3: nearest family torchvision: 1 of 566 keys missing "
        "(Mixed_6a.branch3x3.conv.weight)"
    )


def test_row_for_background_tells_cadene_and_is_dropped(saved):
    """1001 rows are Cadene's; the first is dropped and the rest kept in order."""
    state = state_of("inception_v4", 1001)
    loaded = narrow("inception_v4", saved(state))
    assert loaded.notes == (
        "family cadene, by the row for background in its head",
        "dropped row 0 of the head, which is the background",
    )
    assert torch.equal(
        loaded.model.state_dict()["last_linear.weight"], state["last_linear.weight"][1:]
    )


def test_declared_1001_classes_keep_the_background(saved):
    """Who declares 1001 classes gets 1001 logits."""
    loaded = narrow("inception_v4", saved(state_of("inception_v4", 1001)), num_classes=1001)
    assert len(loaded.model.state_dict()["last_linear.bias"]) == 1001


def test_checkpoints_of_train_need_no_flag(saved):
    """The metadata that train writes tell its files from published ones."""
    classes = json.dumps([str(index) for index in range(7)])
    loaded = narrow("inception_v3", saved(state_of("inception_v3", 7), classes=classes))
    assert loaded.family == "native"
    assert loaded.preprocess == registry.model("inception_v3").preprocess
    assert loaded.options == {"width": 0.125}


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        (
            "tim",
            "no checkpoint format named 'tim'",
            (
                "did you mean 'timm'? known: auto, cadene, facenet, keras, native, slim, timm, "
                "torchvision, torchvision_v2"
            ),
        ),
        (
            "facenet",
            "inception_v4 has no checkpoints of the family 'facenet'",
            "known: cadene, native, slim, timm",
        ),
    ],
)
def test_unknown_format_is_named(saved, asked, message, hint):
    """A format that does not exist, or not for this network, is refused by name."""
    error = refused("inception_v4", saved(state_of("inception_v4")), asked)
    assert (str(error), error.hint) == (message, hint)


def test_unknown_keys_name_the_nearest_family(saved):
    """Keys nobody publishes: the nearest family, how many differ, and the first of them."""
    state = state_of("inception_v4")
    state["features.0.norm.weight"] = state.pop("features.0.bn.weight")
    path = saved(state)
    error = refused("inception_v4", path)
    assert str(error) == (
        f"{path} does not fit inception_v4: nearest family timm: 1 of 896 keys missing "
        "(features.0.bn.weight); 1 unexpected (features.0.norm.weight)"
    )
    assert error.hint == "wanted the names of timm, cadene, slim, native"


def test_head_of_two_layers_has_to_be_declared(saved):
    """An MLP head is refused with the option that declares it, and loads with it."""
    state = {k: t for k, t in state_of("resnet50").items() if not k.startswith("fc.")}
    features = 256
    for index, (rows, columns) in ((0, (64, features)), (2, (5, 64))):
        state[f"fc.{index}.weight"] = torch.randn(rows, columns)
        state[f"fc.{index}.bias"] = torch.randn(rows)
    path = saved(state)
    error = refused("resnet50", path)
    assert str(error) == (
        f"{path} fits resnet50 but for its head: fc.0.bias, fc.0.weight, fc.2.bias, and 1 more; "
        "wanted fc.weight, fc.bias"
    )
    assert error.hint == (
        "wanted one linear layer, or two with a ReLU between and --option head_hidden=64"
    )
    loaded = narrow("resnet50", path, options={"head_hidden": 64}).model.state_dict()
    assert torch.equal(loaded["fc.0.weight"], state["fc.0.weight"])
    assert torch.equal(loaded["fc.3.bias"], state["fc.2.bias"])


def test_npz_of_objects_is_never_opened(tmp_path):
    """An npz with pickled objects is refused, not unpickled."""
    path = tmp_path / "dump.npz"
    np.savez(path, thing=np.array([{"a": 1}], dtype=object))
    error = refused("inception_v3", path)
    assert str(error).startswith(f"{path}: array 'thing' is not one of numbers: ")


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated_npz_is_refused(tmp_path, share):
    """A dump that broke off is called truncated."""
    path = tmp_path / "dump.npz"
    np.savez(path, weights=np.zeros(1000, np.float32))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert str(refused("inception_v3", path)).startswith(f"{path} is truncated or damaged: ")
