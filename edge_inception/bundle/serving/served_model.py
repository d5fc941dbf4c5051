"""The model that a server runs: one graph, its input, outputs and target."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from edge_inception.errors import InputError
from edge_inception.hardware.target import Target
from edge_inception.sidecar import TypedDetails
from edge_inception.spec import Head, Precision, Preprocess, ShapeProfile

# A name becomes part of paths, commands and the name of a systemd unit; none of them needs quotes.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LINE_BREAKERS = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control, surrogate, line, paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; ``element`` is a numpy dtype name, ``shape`` leaves out the batch."""

    name: str
    element: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What a server's configuration states of a typed graph (each precision explicit) and target.

    Attributes:
        name: Name of the bundle, of Triton's model and of the systemd unit.
        input: The image input.
        outputs: The outputs in the graph's order.
        profile: Batch sizes; min = max is a static batch.
        labels: Class names by logit index; empty where unknown or the head has no classes.
        preprocess: Preprocessing from an image to the input.
        precision: Precision of the typed graph.
        typing: How the graph states its precision; the bundle names its file after it.
        head: The graph's last part, such as softmax, which decides what its outputs mean.
        target: The hardware.
        dla_core: Index of the DLA core that runs the engine; None means that the GPU runs it.
    """

    name: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    profile: ShapeProfile
    labels: tuple[str, ...]
    preprocess: Preprocess
    precision: Precision
    typing: str
    head: Head
    target: Target
    dla_core: int | None = None

    @property
    def home(self) -> str:
        """Folder of the bundle on the device, as the Dockerfiles and the systemd unit lay it."""
        return f"/opt/edge-inception/{self.name}"


def served_model(
    details: TypedDetails,
    target: Target,
    *,
    name: str,
    dla_core: int | None = None,
) -> ServedModel:
    """The served model of a typed graph's sidecar (.json file), after a check of name and labels.

    Raises:
        InputError: The name needs quotes in a path or a systemd unit, a label is not one line, or
            the labels and the classes differ in number.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} is not 1 to 100 of A-Z a-z 0-9 . _ - that start with a letter or digit",
            hint="it becomes part of paths, of a unit's name and of commands: choose a plain one",
        )
    head, preprocess = details.head, details.preprocess
    labels = () if head.kind == "embedding" else details.classes
    require_labels(labels, details.num_classes)
    return ServedModel(
        name=name,
        input=Tensor(name=details.input, element=preprocess.element, shape=preprocess.image_shape),
        outputs=_outputs(head, details.output, tuple(map(int, details.output_shape[1:]))),
        profile=details.profile,
        labels=labels,
        preprocess=preprocess,
        precision=details.precision,
        typing=details.typing,
        head=head,
        target=target,
        dla_core=dla_core,
    )


def _outputs(head: Head, first: str, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Scores (float32 whatever the graph's precision), and the classes where the head is top-k."""
    scores = Tensor(name=first, element="float32", shape=shape)
    if head.kind != "topk":
        return (scores,)
    return (scores, Tensor(name=head.outputs[1], element="int64", shape=shape))


def require_labels(labels: tuple[str, ...], num_classes: int) -> None:
    """Refuse labels that a file with one label per line cannot hold.

    Raises:
        InputError: A label is empty or holds a line break or control character, or the labels and
            the classes differ in number.
    """
    if labels and len(labels) != num_classes:
        raise InputError(
            f"{len(labels)} labels for {num_classes} classes",
            hint="build again with --labels and one name per class",
        )
    for index, label in enumerate(labels):
        if not label or any(unicodedata.category(char) in _LINE_BREAKERS for char in label):
            raise InputError(
                f"label {index} is {label!r}, wanted one line of text",
                hint="build again with --labels and one printable name per class",
            )
