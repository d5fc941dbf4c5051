"""Texts on licences in a bundle: the licence of this code, and notes on the checkpoint's."""

from __future__ import annotations

from importlib import metadata

from edge_inception import registry
from edge_inception.errors import InputError
from edge_inception.sidecar import ModelDetails

_DISTRIBUTION = "edge-inception"


def licence_texts(details: ModelDetails) -> dict[str, str]:
    """File name -> text in the folder ``licences``; ``details`` come from a graph's sidecar.

    A sidecar is the .json file beside an artifact.
    """
    return {"edge-inception.txt": _own_licence(), "checkpoint.txt": _checkpoint_notes(details)}


def _own_licence() -> str:
    """Text of the licence of the code in a bundle, as installed with this package."""
    try:
        files = metadata.distribution(_DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "LICENSE":
            return file.read_text(encoding="utf-8")
    return "edge-inception is under the Apache License 2.0.\n"


def _checkpoint_notes(details: ModelDetails) -> str:
    """Notes from the table of models on the licences of published weights; no legal advice."""
    model, family = details.model, details.checkpoint_family
    lines = [
        f"The graphs hold the weights of a checkpoint of {model}.",
        "Its licence is that of whoever trained it; edge-inception does not know it.",
    ]
    try:
        families = registry.model(model).families
    except InputError:  # an imported graph has a name that the table of models lacks
        families = ()
    published = [p for f in families if f.name == family for p in f.published]
    if published:
        lines.append(f"Weights of this architecture that '{family}' published are under:")
        lines += [f"- {p.name}: {p.licence} ({p.url})" for p in published]
    lines += [f"Note of its loading: {note}" for note in details.checkpoint_notes or ()]
    return "\n".join(lines) + "\n"
