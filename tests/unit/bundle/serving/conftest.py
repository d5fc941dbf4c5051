"""Facts as a typed graph's sidecar gives them, with what a test wants changed."""

from __future__ import annotations

import dataclasses

import pytest
import sidecars

from edge_inception.bundle.serving.served_model import served_model
from edge_inception.hardware import targets
from edge_inception.spec import Precision, Preprocess, ShapeProfile

CLASSES = ("functional", "defective", "unknown")
WIDTHS = {"logits": 3, "softmax": 3, "topk": 2, "embedding": 512}
OUTPUTS = {
    "logits": "logits",
    "softmax": "probabilities",
    "topk": "scores",
    "embedding": "embedding",
}
PREPROCESS = {
    "input_size": [299, 289],
    "crop_fraction": 1.0,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "channel_order": "RGB",
    "crop": "after_resize",
    "element": "float32",
    "layout": "NCHW",
}


def details_of(*, head="softmax", batch=(1, 4, 8), classes=CLASSES, precision="int8", **preprocess):
    """``details`` of a typed graph; ``preprocess`` are its changed fields."""
    least, best, most = batch
    size = "batch" if least != most else most
    kind = head.partition(":")[0]
    how = PREPROCESS | preprocess
    pixels = [3, *how["input_size"]] if how["layout"] == "NCHW" else [*how["input_size"], 3]
    return sidecars.typed(
        classes=tuple(classes),
        num_classes=0 if kind == "embedding" else 3,
        preprocess=Preprocess(**how),
        profile=ShapeProfile(min=least, opt=best, max=most),
        head_text=head,
        precision=Precision(precision),
        output=OUTPUTS[kind],
        input_shape=(size, *pixels),
        output_shape=(size, WIDTHS[kind]),
    )


@pytest.fixture(scope="session")
def details():
    """``details(head=..., batch=..., ...)``: what a typed graph's sidecar carries."""
    return details_of


@pytest.fixture(scope="session")
def served():
    """``served(target="cpu", name=..., head=..., ...)``; an Orin unless said otherwise."""

    def make(target="orin-nx-16gb", name="solar", *, dla_core=None, capabilities=(), **changes):
        hardware = targets.target(target)
        if capabilities:
            hardware = dataclasses.replace(hardware, compute_capabilities=capabilities)
        return served_model(details_of(**changes), hardware, name=name, dla_core=dla_core)

    return make
