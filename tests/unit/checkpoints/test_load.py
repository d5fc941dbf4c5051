"""load_model: exactly the checkpoint's weights, or an error that names what does not fit."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from edge_inception.checkpoints import load as subject
from edge_inception.checkpoints.load import load_model
from edge_inception.errors import InputError

NAME = "tiny_inception"


@pytest.fixture
def state(tiny_weights):
    """A copy of the tiny model's state dict, to be spoilt."""
    return {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    def save(tensors, **metadata):
        path = tmp_path / "weights.safetensors"
        save_file(tensors, path, metadata=metadata or None)
        return path

    return save


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        load_model(NAME, path, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_weights_are_those_of_the_file(tiny_checkpoint, state):
    """Every tensor equals the checkpoint's bit by bit, and the model is in eval mode."""
    model = load_model(NAME, tiny_checkpoint)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not any(module.training for module in model.modules())


def test_logits_are_those_of_the_trained_model(tiny_checkpoint, tiny_weights):
    """The loaded model answers as the one that was saved."""
    pixels = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(load_model(NAME, tiny_checkpoint)(pixels), tiny_weights(pixels))


@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_save_files_load(tmp_path, state, is_zip):
    """Both file layouts of torch.save hold the same model."""
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    loaded = load_model(NAME, path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_number_of_classes_is_the_heads(tiny_checkpoint):
    """Without num_classes the head decides."""
    assert subject.num_classes_of(load_model(NAME, tiny_checkpoint)) == 5


def test_other_class_count_names_both_and_the_option(tiny_checkpoint):
    """Five classes in the file and three asked for is refused with both numbers."""
    error = refused(tiny_checkpoint, num_classes=3)
    assert "5 classes" in str(error)
    assert "wanted 3" in str(error)
    assert "--num-classes 5" in error.hint


def test_missing_key_is_named(saved, state):
    """A key that is not in the file is named."""
    del state["features.2.branch1.0.conv.weight"]
    assert "1 of" in str(error := refused(saved(state)))
    assert "features.2.branch1.0.conv.weight" in str(error)


def test_unexpected_keys_are_counted_and_three_named(saved, state):
    """Of five keys too many three are named and the rest counted."""
    state.update({f"extra.{index}": torch.zeros(1) for index in range(5)})
    path = saved(state)
    assert str(refused(path)) == (
        f"{path} does not fit tiny_inception: nearest family timm: 5 unexpected (extra.0, extra.1, "
        "extra.2, and 2 more)"
    )


def test_shape_is_named_with_got_and_wanted(saved, state):
    """A kernel of another size is named with both shapes."""
    state["features.0.conv.weight"] = torch.zeros(8, 3, 5, 5)
    error = refused(saved(state))
    assert "features.0.conv.weight is [8, 3, 5, 5], wanted [8, 3, 3, 3]" in str(error)


def test_other_width_points_at_the_options(tiny_checkpoint):
    """A checkpoint of another width is refused and the model's options are listed."""
    error = refused(tiny_checkpoint, width=2.0)
    assert "another shape" in str(error)
    assert "width=1.0" in error.hint


def test_other_architecture_says_which_model_fits(tiny_checkpoint):
    """The keys of another registered model are recognised."""
    with pytest.raises(InputError) as caught:
        load_model("inception_v4", tiny_checkpoint)
    assert str(caught.value) == (
        f"{tiny_checkpoint} does not fit inception_v4: its keys are those of tiny_inception"
    )
    assert caught.value.hint == "use --model tiny_inception"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_no_number_is_refused(saved, state, value):
    """One NaN or infinity in one tensor is found and the tensor is named."""
    state["features.0.bn.running_var"][3] = value
    error = refused(saved(state))
    assert "'features.0.bn.running_var' has 1 of 8 values" in str(error)


def test_value_beyond_float32_is_refused(saved, state):
    """A float64 that overflows float32 is not turned into an infinite weight."""
    state["last_linear.bias"] = torch.full((5,), 1e300, dtype=torch.float64)
    assert "last_linear.bias" in str(refused(saved(state)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_and_it_is_said(saved, state, dtype, caplog):
    """Half, bfloat16 and double weights are converted exactly as PyTorch does, and logged."""
    stored = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    with caplog.at_level("INFO", logger="edge_inception.checkpoints.load"):
        loaded = load_model(NAME, saved(stored)).state_dict()
    floats = [key for key, tensor in stored.items() if tensor.is_floating_point()]
    assert all(torch.equal(loaded[key], stored[key].float()) for key in floats)
    assert f"{len(floats)} tensors of {str(dtype).removeprefix('torch.')}" in caplog.text


def test_plain_file_says_only_its_family(tiny_checkpoint):
    """Nothing converted or unwrapped, nothing said of it."""
    assert subject.load(NAME, tiny_checkpoint).notes == ("family timm, by its keys",)


def test_float8_weights_are_refused(saved, state):
    """A type that nobody published these models in is refused by name."""
    state["last_linear.weight"] = state["last_linear.weight"].to(torch.float8_e4m3fn)
    assert "float8_e4m3fn" in str(refused(saved(state)))


def test_integer_weights_are_refused(saved, state):
    """Integers where floats belong are not loaded as weights."""
    state["last_linear.weight"] = torch.ones(5, 32, dtype=torch.int8)
    assert "'last_linear.weight' is int8" in str(refused(saved(state)))


def test_absent_batch_counters_are_zero(saved, state, tiny_weights):
    """Checkpoints from before num_batches_tracked existed load, and the logits are the same."""
    old = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    model = load_model(NAME, saved(old))
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(counters) == 12
    assert all(counter.item() == 0 for counter in counters)
    pixels = torch.ones(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(model(pixels), tiny_weights(pixels))


class _Bomb:
    def __init__(self, marker):
        self._marker = marker

    def __reduce__(self):
        return os.mkdir, (self._marker,)


@pytest.mark.parametrize("is_plain", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, is_plain):
    """A file that would run code when unpickled is refused; the code did not run."""
    marker, path = tmp_path / "ran", tmp_path / "weights.pt"
    if is_plain:
        path.write_bytes(pickle.dumps({"weight": _Bomb(str(marker))}))
    else:
        torch.save({"weight": _Bomb(str(marker))}, path)
    error = refused(path)
    assert "pickle with more than tensors" in str(error)
    assert "safetensors" in error.hint
    assert not marker.exists()


def test_whole_model_in_a_pickle_is_refused(tmp_path, tiny_weights):
    """torch.save(model) stores classes, which is code."""
    torch.save(tiny_weights, tmp_path / "model.pt")
    assert "pickle with more than tensors" in str(refused(tmp_path / "model.pt"))


def test_mapping_without_weights_says_what_it_holds(tmp_path):
    """A training state without a known place of weights is refused with what it holds."""
    path = tmp_path / "state.pt"
    torch.save({"epoch": 3, "history": {"loss": 1.0}}, path)
    assert str(refused(path)) == (
        f"{path} holds entries that are not tensors: epoch, history; wanted tensors by name"
    )


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated_safetensors_is_refused(tiny_checkpoint, tmp_path, share):
    """A download that broke off is called truncated."""
    content = tiny_checkpoint.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in str(refused(path))


@pytest.mark.parametrize("share", [0.3, 0.99])
@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_torch_file_is_refused(state, tmp_path, share, is_zip):
    """A torch.save file that broke off is called truncated."""
    path = tmp_path / "cut.pt"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in str(refused(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "Keras"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x08\x0a\x12\x07pytorch", "is not a checkpoint"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, said):
    """Files that people pass by mistake get an error that says what they are."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    error = refused(path)
    assert said in f"{error} {error.hint}"


def test_no_file_is_an_error_not_random_weights(tmp_path):
    """A missing checkpoint is refused."""
    assert "nothing.pt" in str(refused(tmp_path / "nothing.pt"))
    assert "cannot read" in str(refused(tmp_path))


def test_unknown_model_suggests_the_near_one(tiny_checkpoint):
    """A misspelt model gets the nearest name."""
    with pytest.raises(InputError) as caught:
        load_model("inception_v5", tiny_checkpoint)
    assert "did you mean 'inception_v4'" in caught.value.hint


def test_unknown_option_suggests_the_near_one(tiny_checkpoint):
    """A misspelt option gets the nearest name and the list."""
    error = refused(tiny_checkpoint, widht=1.0)
    assert "widht" in str(error)
    assert error.hint == "did you mean 'width'? known: dropout, width"


@pytest.mark.parametrize("value", ["wide", True, None])
def test_option_of_another_type_is_refused(tiny_checkpoint, value):
    """An option that is not a number where a number belongs is refused."""
    assert "wanted a number" in str(refused(tiny_checkpoint, width=value))


def test_classes_come_from_the_metadata(saved, state):
    """The class names that train stores are read back in order."""
    path = saved(state, classes='["a", "b", "c", "d", "e"]')
    assert subject.read_checkpoint(path).classes == ("a", "b", "c", "d", "e")
