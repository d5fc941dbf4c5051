"""What the configurations of servers are made from: one graph, its ends, and its target."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from edge_inception.errors import InputError
from edge_inception.hardware.target import Target
from edge_inception.sidecar import TypedDetails
from edge_inception.spec import Head, Precision, Preprocess, ShapeProfile

# Part of paths, of a unit's name and of commands: nothing that any of them would have to quote.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LINE_BREAKERS = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control, surrogate, line, paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output: ``element`` as numpy names it, ``shape`` of one image, no batch."""

    name: str
    element: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFacts:
    """One typed graph for one target.

    Attributes:
        name: Of the bundle, of Triton's model and of the systemd unit.
        input: The image input.
        outputs: In the graph's order.
        profile: Batch sizes; min = max is a static batch.
        labels: Class names by logit index; empty where unknown or the head has no classes.
        preprocess: What makes an image the input.
        precision: Of the typed graph.
        head: What the graph answers.
        target: The hardware.
        compute_capabilities: Those that share one Triton repository, one plan each.
        dla_core: The core that the engine runs on, None is the GPU.
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
    """The facts that a typed graph's sidecar carries, checked for what no server could take.

    Args:
        details: Of the sidecar.
        target: The hardware.
        name: Of the bundle.
        compute_capabilities: Such as ("7.2", "8.7"); empty is the target's own.
        dla_core: The core that the engine is built for, None is the GPU.

    Raises:
        InputError: A name that paths and units would have to quote, a label that is not one line,
            or a number of labels that is not that of the classes.
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
        outputs=_outputs(head, details.output, details.output_shape[1:]),
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
    """Only a top-k head has two; every first one is float32, whatever the precision inside."""
    scores = Tensor(name=first, element="float32", shape=shape)
    if head.kind != "topk":
        return (scores,)
    return (scores, Tensor(name=head.outputs[1], element="int64", shape=shape))


def require_labels(labels: tuple[str, ...], num_classes: int) -> None:
    """Refuse labels that a file with one label per line cannot hold.

    Raises:
        InputError: A line break, a control character or nothing in a label; too many or too few.
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
