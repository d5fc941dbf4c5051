"""Records of published checkpoints, one function for each publisher of several architectures.

``top1`` and ``top5`` are single-crop ImageNet accuracies in percent, as each publisher says.
"""

from __future__ import annotations

from edge_inception.spec import PublishedCheckpoint


def torchvision(weights: str, file: str, top1: float, top5: float) -> PublishedCheckpoint:
    """Weights of torchvision: ``weights`` is their name in its API, ``file`` their file's stem."""
    return PublishedCheckpoint(
        name=weights,
        url=f"https://download.pytorch.org/models/{file}.pth",
        licence="BSD-3-Clause",
        top1=top1,
        top5=top5,
        source="torchvision 0.28 weight metadata",
    )


def timm(name: str, top1: float, top5: float, *, note: str = "") -> PublishedCheckpoint:
    """Weights of timm by their name on Hugging Face; ``note`` follows the name in listings."""
    return PublishedCheckpoint(
        name=name + note,
        url=f"https://huggingface.co/timm/{name}",
        licence="Apache-2.0",
        top1=top1,
        top5=top5,
        source="timm results csv at aa4b5850",
    )


def slim(name: str, top1: float, top5: float) -> PublishedCheckpoint:
    """A checkpoint of TF-slim by the name of its archive."""
    return PublishedCheckpoint(
        name=name,
        url=f"http://download.tensorflow.org/models/{name}.tar.gz",
        licence="Apache-2.0",
        top1=top1,
        top5=top5,
        source="tensorflow/models research/slim README",
    )


def cadene(file: str, licence: str, top1: float, top5: float) -> PublishedCheckpoint:
    """A file of Cadene's pretrained-models.pytorch; ``licence`` is that of the original weights."""
    return PublishedCheckpoint(
        name=file,
        url=f"http://data.lip6.fr/cadene/pretrainedmodels/{file}.pth",
        licence=licence,
        top1=top1,
        top5=top5,
        source="README of Cadene/pretrained-models.pytorch",
    )


def keras(name: str, top1: float, top5: float) -> PublishedCheckpoint:
    """A model of keras.applications by the name of its class."""
    return PublishedCheckpoint(
        name=f"keras.applications {name}",
        url=f"https://keras.io/api/applications/{name.lower()}/",
        licence="Apache-2.0",
        top1=top1,
        top5=top5,
        source="Keras applications table",
    )
