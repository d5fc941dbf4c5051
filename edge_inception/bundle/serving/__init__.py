"""Configurations for servers and devices, written into a bundle: text only, no server is started.

Each file renders ``ServingFacts`` into files: relative path -> text. What a server cannot do is
refused with the option that would work; ``render_all`` lists those refusals in its README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_inception.bundle.serving import deepstream, docker, systemd, triton
from edge_inception.bundle.serving.facts import ServingFacts
from edge_inception.errors import InputError

_Text = Callable[[ServingFacts], str]
_Files = Callable[[ServingFacts], dict[str, str]]

KINDS: Mapping[str, tuple[_Files, _Text]] = {
    "Triton Inference Server": (triton.render, triton.usage),
    "DeepStream": (deepstream.render, deepstream.usage),
    "Docker": (docker.render, docker.usage),
    "systemd": (systemd.render, systemd.usage),
}
"""Title -> files, and the Markdown that says how to use them."""


def render_all(facts: ServingFacts) -> dict[str, str]:
    """Every configuration that is possible, and README.md: how to use them, what is left out, why.

    Returns:
        Path relative to the bundle's ``serving/`` -> text, in the order of ``KINDS``.
    """
    files: dict[str, str] = {}
    parts = [f"# Serving {facts.name}\n\nRun every command in the bundle's folder.\n"]
    for title in KINDS:
        part, rendered = _part(title, facts)
        parts.append(part)
        files |= rendered
    files["README.md"] = "\n".join(parts)
    return files


def _part(title: str, facts: ServingFacts) -> tuple[str, dict[str, str]]:
    render, usage = KINDS[title]
    try:
        return f"## {title}\n\n{usage(facts)}", render(facts)
    except InputError as error:  # not this server: said in the README, and the others go on
        return f"## {title}: left out\n\n{error}.\nInstead: {error.hint}.\n", {}
