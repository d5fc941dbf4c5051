"""What training scripts wrap around weights is taken off and said; what is ambiguous is refused."""

from __future__ import annotations

import pytest
import torch

from edge_inception.checkpoints.load import load
from edge_inception.cli import main
from edge_inception.errors import InputError

NAME = "tiny_inception"
SAID = ("family timm, by its keys",)


@pytest.fixture
def state(tiny_weights):
    return {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "state.pt")
        return tmp_path / "state.pt"

    return save


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


WRAPPED = {
    "state_dict": (
        lambda s: {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": s},
        ("unwrapped 'state_dict'; left aside: epoch, optimizer",),
    ),
    "model": (lambda s: {"model": s}, ("unwrapped 'model'",)),
    "model_state_dict": (lambda s: {"model_state_dict": s}, ("unwrapped 'model_state_dict'",)),
    "data parallel": (lambda s: prefixed("module.", s), ("unwrapped 'module.'",)),
    "compiled and parallel": (
        lambda s: prefixed("module._orig_mod.", s),
        ("unwrapped 'module.'", "unwrapped '_orig_mod.'"),
    ),
    "Lightning": (
        lambda s: {
            "state_dict": {**prefixed("model.", s), "criterion.weight": torch.ones(2)},
            "hyper_parameters": {"lr": 1e-3},
            "pytorch-lightning_version": "2.4.0",
        },
        (
            "unwrapped 'state_dict'; left aside: hyper_parameters, pytorch-lightning_version",
            "unwrapped 'model.'; left aside 1 tensors outside it: criterion.weight",
        ),
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrapped_weights_are_those_inside(case, saved, state):
    """The weights are the wrapped ones bit by bit, and every layer taken off is said."""
    wrap, said = WRAPPED[case]
    loaded = load(NAME, saved(wrap(state)))
    assert loaded.notes == (*said, *SAID)
    got = loaded.model.state_dict()
    assert all(torch.equal(got[key], state[key]) for key in state)


@pytest.mark.parametrize("place", ["slot", "nested", "prefix"])
def test_moving_average_is_taken_and_said(place, saved, state):
    """With both sets of weights in the file the average is used, and the note names both."""
    raw = {k: torch.zeros_like(tensor) for k, tensor in state.items()}
    content, said = {
        "slot": (
            {"state_dict": raw, "state_dict_ema": state},
            "took 'state_dict_ema', the moving average of the weights, not 'state_dict'",
        ),
        "nested": (
            {"model": raw, "ema": {"decay": 0.999, "shadow": state}},
            "took 'ema', the moving average of the weights, not 'model'",
        ),
        "prefix": (
            {**prefixed("model.", raw), **prefixed("ema_model.", state)},
            "took 'ema_model.', the moving average of the weights, not 'model.'",
        ),
    }[place]
    loaded = load(NAME, saved(content))
    assert loaded.notes[0] == said
    got = loaded.model.state_dict()
    assert all(torch.equal(got[key], state[key]) for key in state)


def test_two_sets_of_weights_are_refused(saved, state, capsys):
    """Which of two models is meant is not guessed: exact line, exit code 3."""
    path = saved({"model": state, "net": state})
    with pytest.raises(InputError) as caught:
        load(NAME, path)
    assert str(caught.value) == f"{path} has weights under several entries: 'model', 'net'"
    arguments = ["export", "--model", "inception_v4", "--checkpoint", str(path)]
    assert main.run([*arguments, "--out", str(path.with_name("m.onnx"))]) == 3
    assert f"error: {caught.value}\n" in capsys.readouterr().err
