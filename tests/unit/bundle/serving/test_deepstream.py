"""nvinfer's configuration, read back, and its arithmetic against our preprocessing."""

from __future__ import annotations

import configparser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_inception import registry
from edge_inception.bundle.serving import deepstream
from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess

CLASSES = ("functional", "defective", "unknown")
PIXELS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
HALF_ULP = np.float32(2.0**-24)
FAMILIES = {
    f"{model.name}-{family.name}": family.preprocess
    for model in registry.models().values()
    for family in model.families
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def read(files):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(files["deepstream/config_infer.txt"])
    return parser["property"]


def nvinfer(pixels, scale, offsets):
    """scale * (x - offset[c]) in float32, as nvdsinfer_conversion.cu computes it."""
    return np.float32(scale) * (pixels.astype(np.float32) - np.array(offsets, np.float32))


def require_same(how, scale, offsets):
    ours, theirs = images.normalise(PIXELS, how), nvinfer(PIXELS, scale, offsets)
    # Both round constants and results a few times; a half ulp of 255 becomes one of 1 / std.
    bound = 6 * HALF_ULP * (1 / np.array(how.std, np.float32) + np.abs(ours))
    assert (np.abs(ours - theirs) <= bound).all()


@pytest.mark.parametrize("how", FAMILIES.values(), ids=FAMILIES.keys())
def test_normalisation_of_every_family_is_exact_or_refused(how):
    """For all 256 pixel values; refused where a channel would need another scale."""
    if len({1 / (255 * std) for std in how.std}) == 1:
        require_same(how, *deepstream.nvinfer_normalisation(how))
    else:
        with pytest.raises(InputError, match="one net-scale-factor") as caught:
            deepstream.nvinfer_normalisation(how)
        assert "--fold-preprocessing" in caught.value.hint


def test_both_sorts_of_families_exist():
    """The test above sees families that one scale fits, and families that it does not."""
    assert {len(set(how.std)) == 1 for how in FAMILIES.values()} == {True, False}


@settings(deadline=None)  # the machine may be busy
@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.floats(1e-3, 10),
    order=st.sampled_from(["RGB", "BGR"]),
)
def test_any_common_scale_is_exact(mean, std, order):
    """Means may differ by channel; the numbers survive being written and read as text."""
    how = Preprocess(input_size=(8, 8), mean=mean, std=(std, std, std), channel_order=order)
    scale, offsets = deepstream.nvinfer_normalisation(how)
    require_same(how, float(repr(scale)), [float(text) for text in map(str, offsets)])


def test_config_says_what_the_engine_is(served):
    """Keys of the [property] group of Gst-nvinfer, with the values of this engine."""
    config = read(deepstream.render(served(batch=(1, 4, 8))))
    assert config["network-type"] == "1"  # classifier
    assert config["process-mode"] == "1"  # whole frames
    assert config["infer-dims"] == "3;299;289"
    assert config["batch-size"] == "8"
    assert config["model-color-format"] == "0"
    assert float(config["net-scale-factor"]) == pytest.approx(1 / 127.5, rel=1e-15)
    assert config["offsets"] == "127.5;127.5;127.5"
    assert config["scaling-filter"] == "1"  # NvBufSurfTransformInter_Bilinear
    assert config["labelfile-path"] == "labels.txt"
    assert "onnx-file" not in config, "nvinfer would build an engine that was never validated"


@pytest.mark.parametrize(("precision", "mode"), [("fp32", "0"), ("int8", "1"), ("fp16", "2")])
def test_network_mode_is_the_precision(served, precision, mode):
    """Gst-nvinfer: 0 FP32, 1 INT8, 2 FP16."""
    assert read(deepstream.render(served(precision=precision)))["network-mode"] == mode


def test_offsets_are_in_the_order_of_the_network(served):
    """BGR: nvinfer swaps the channels first and subtracts offset[c] of the network's channel c."""
    means = [0.1, 0.2, 0.3]
    config = read(deepstream.render(served(channel_order="BGR", mean=means)))
    assert config["model-color-format"] == "1"
    offsets = [float(text) for text in config["offsets"].split(";")]
    assert offsets == pytest.approx([255 * mean for mean in means])


def test_keys_are_known_to_the_parser(served):
    """Every key is one of gstnvinfer_property_parser.h of DeepStream 6.4 to 9.2."""
    known = {
        *("gpu-id", "model-engine-file", "labelfile-path", "batch-size", "network-mode"),
        *("network-type", "process-mode", "gie-unique-id", "infer-dims", "model-color-format"),
        *("net-scale-factor", "offsets", "maintain-aspect-ratio", "scaling-filter"),
        *("classifier-threshold", "enable-dla", "use-dla-core"),
    }
    assert set(read(deepstream.render(served(dla_core=0)))) == known


def test_dla_core_is_switched_on(served):
    """An engine of core 1 is loaded on core 1; one of the GPU has neither key."""
    config = read(deepstream.render(served(dla_core=1)))
    assert (config["enable-dla"], config["use-dla-core"]) == ("1", "1")
    assert "enable-dla" not in read(deepstream.render(served()))


def test_labels_are_one_line(served):
    """One line per output, its classes separated by semicolons; none where none are known."""
    assert deepstream.render(served())["deepstream/labels.txt"] == ";".join(CLASSES) + "\n"
    without = deepstream.render(served(classes=()))
    assert list(without) == ["deepstream/config_infer.txt"]
    assert "labelfile-path" not in read(without)


@pytest.mark.parametrize(
    ("arguments", "changes", "message", "hint"),
    [
        (("cpu",), {}, "TensorRT plans", "Jetson"),
        ((), {"head": "logits"}, "logits for probabilities", "--head softmax"),
        ((), {"head": "topk:2"}, "both outputs", "--head softmax"),
        ((), {"head": "embedding"}, "names no class", "Triton"),
        ((), {"batch": (2, 2, 2)}, "not full", "--batch 1"),
        ((), {"batch": (2, 4, 8)}, "not full", "--dynamic-batch 1:4:8"),
        ((), {"element": "uint8", "batch": (1, 1, 1)}, "1 to 1", "--dynamic-batch 1:1:2"),
        ((), {"element": "uint8", "batch": (2, 4, 8)}, "2 to 8", "--dynamic-batch 1:4:8"),
        ((), IMAGENET, "one net-scale-factor", "--fold-preprocessing: Gst-nvinferserver"),
        ((), {"classes": ("a", "b;c", "d")}, "separated by ';'", "--labels"),
    ],
)
def test_what_nvinfer_cannot_do_is_refused(served, arguments, changes, message, hint):
    """Refused in one line that says why, with the option that works."""
    with pytest.raises(InputError, match=message) as caught:
        deepstream.render(served(*arguments, **changes))
    assert hint in caught.value.hint


def test_the_hint_for_imagenet_works(served):
    """What is refused for its scales is accepted once they are inside the graph."""
    assert "deepstream/config_inferserver.txt" in deepstream.render(
        served(element="uint8", **IMAGENET)
    )
