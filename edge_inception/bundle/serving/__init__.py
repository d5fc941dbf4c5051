"""Configuration files for servers, which a bundle carries as text; no server is started here.

Each module turns ``ServedModel`` into a mapping from relative path to text. A module refuses a
model that its server cannot run, and names the option that would help; ``render_all`` lists the
refusals in the README.md that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_inception.bundle.serving import deepstream, docker, systemd, triton
from edge_inception.bundle.serving.served_model import ServedModel
from edge_inception.errors import InputError

_Text = Callable[[ServedModel], str]
_Files = Callable[[ServedModel], dict[str, str]]

KINDS: Mapping[str, tuple[_Files, _Text]] = {
    "Triton Inference Server": (triton.render, triton.usage),
    "DeepStream": (deepstream.render, deepstream.usage),
    "Docker": (docker.render, docker.usage),
    "systemd": (systemd.render, systemd.usage),
}
"""Title -> the function that makes the files, and the one that explains their use in Markdown."""


def render_all(served: ServedModel) -> dict[str, str]:
    """Configurations of all servers that can run the model, and a README.md.

    The README.md explains the use of each configuration, and why others were left out.

    Returns:
        Path relative to the bundle's ``serving/`` -> text, in the order of ``KINDS``.
    """
    files: dict[str, str] = {}
    how = "Run every command in the bundle's folder: copies go beside it."
    parts = [f"# Serving {served.name}\n\n{how}\n"]
    for title in KINDS:
        part, rendered = _part(title, served)
        parts.append(part)
        files |= rendered
    files["README.md"] = "\n".join(parts)
    return files


def _part(title: str, served: ServedModel) -> tuple[str, dict[str, str]]:
    render, usage = KINDS[title]
    try:
        return f"## {title}\n\n{usage(served)}", render(served)
    except InputError as error:  # the README gives the reason; other servers may run the model
        return f"## {title}: left out\n\n{error}.\nInstead: {error.hint}.\n", {}
