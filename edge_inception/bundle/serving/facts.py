"""Facts for the configurations of servers: one graph, its input and outputs, and its target."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from edge_inception.errors import InputError
from edge_inception.hardware.target import Target
from edge_inception.sidecar import TypedDetails
from edge_inception.spec import Head, Precision, Preprocess, ShapeProfile

# A name becomes part of paths, of a unit's name and of commands, and needs no quotes in any.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LINE_BREAKERS = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control, surrogate, line, paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output: its element type as numpy names it, and its shape without the batch."""

    name: str
    element: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFacts:
    """One typed graph for one target.

    Attributes:
        name: Name of the bundle, of Triton's model and of the systemd unit.
        input: The image input.
        outputs: The outputs in the graph's order.
        profile: Batch sizes; min = max is a static batch.
        labels: Class names by logit index; empty where unknown or the head has no classes.
        preprocess: Preprocessing from an image to the input.
        precision: Precision of the typed graph.
        head: Kind of the graph's answers.
        target: The hardware.
        compute_capabilities: GPU generations in one Triton repository, with one plan each.
        dla_core: The DLA core that the engine runs on; None is the GPU.
    """

    name: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    profile: ShapeProfile
    labels: tuple[str, ...]
    preprocess: Preprocess
    precision: Precision
    head: Head
    target: Target
    compute_capabilities: tuple[str, ...] = field(default=())
    dla_core: int | None = None


def serving_facts(
    details: TypedDetails,
    target: Target,
    *,
    name: str,
    compute_capabilities: tuple[str, ...] = (),
    dla_core: int | None = None,
) -> ServingFacts:
    """The facts in a typed graph's sidecar, after a check of name and labels.

    Args:
        details: Details of the sidecar.
        target: The hardware.
        name: Name of the bundle.
        compute_capabilities: Such as ("7.2", "8.7"); empty is the target's own.
        dla_core: The DLA core that the engine is built for; None is the GPU.

    Raises:
        InputError: The name needs quotes in a path or unit, a label is not one line, or the number
            of labels is not that of the classes.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} is not 1 to 100 of A-Z a-z 0-9 . _ - that start with a letter or digit",
            hint="it becomes part of paths, of a unit's name and of commands: choose a plain one",
        )
    head, preprocess = details.head, details.preprocess
    labels = () if head.kind == "embedding" else details.classes
    require_labels(labels, details.num_classes)
    return ServingFacts(
        name=name,
        input=Tensor(name=details.input, element=preprocess.element, shape=preprocess.image_shape),
        outputs=_outputs(head, details.output, tuple(map(int, details.output_shape[1:]))),
        profile=details.profile,
        labels=labels,
        preprocess=preprocess,
        precision=details.precision,
        head=head,
        target=target,
        compute_capabilities=compute_capabilities or target.compute_capabilities,
        dla_core=dla_core,
    )


def _outputs(head: Head, first: str, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The outputs: two of a top-k head, else one; the first is float32 at any precision inside."""
    scores = Tensor(name=first, element="float32", shape=shape)
    if head.kind != "topk":
        return (scores,)
    return (scores, Tensor(name=head.outputs[1], element="int64", shape=shape))


def require_labels(labels: tuple[str, ...], num_classes: int) -> None:
    """Refuse labels that a file with one label per line cannot hold.

    Raises:
        InputError: A label is empty or holds a line break or control character, or the number of
            labels is not that of the classes.
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
