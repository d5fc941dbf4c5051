"""render_all: what is possible is written, what is not is said."""

from __future__ import annotations

import re

import pytest

from edge_inception.bundle import serving
from edge_inception.bundle.serving import deepstream, docker, systemd, triton

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def left_out(readme):
    return re.findall(r"^## (.+): left out$", readme, flags=re.MULTILINE)


def test_everything_is_written_where_everything_is_possible(served):
    """A softmax graph for an Orin has all four, byte for byte what each renders, and a README."""
    one = served()
    files = serving.render_all(one)
    expected = {}
    for module in (triton, deepstream, docker, systemd):
        expected |= module.render(one)
    readme = files.pop("README.md")
    assert files == expected
    assert left_out(readme) == []


@pytest.mark.parametrize(
    ("arguments", "changes", "expected", "hint"),
    [
        ((), {"head": "logits"}, ["DeepStream"], "--head softmax"),
        ((), IMAGENET, ["DeepStream"], "--fold-preprocessing"),
        ((), {"head": "topk:2"}, ["Triton Inference Server", "DeepStream"], "--head softmax"),
        (("cpu",), {}, ["DeepStream", "Docker"], "Jetson"),
        (("rtx",), {}, ["Triton Inference Server", "DeepStream", "Docker"], "--target cpu"),
    ],
)
def test_readme_says_what_is_left_out_and_what_works(served, arguments, changes, expected, hint):
    """The others are written all the same; the hint of the refusal stands in the README."""
    files = serving.render_all(served(*arguments, **changes))
    assert left_out(files["README.md"]) == expected
    assert hint in files["README.md"]
    folders = {name.partition("/")[0] for name in files} - {"README.md"}
    absent = {title.split()[0].lower() for title in expected}
    assert folders == {"triton", "deepstream", "docker", "systemd"} - absent


def test_files_stay_inside_their_folder(served):
    """Relative paths without steps up, each once, each text ending in a line break."""
    for name, text in serving.render_all(served(name="x..y")).items():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert text.endswith("\n")


def test_readme_names_only_files_that_are_there(served):
    """Every path under serving/ that the README names is written, or made by its own commands."""
    files = serving.render_all(served())
    made = {"triton", "triton/solar/1", "triton/solar/1/model.plan", "deepstream/model.engine"}
    named = set(re.findall(r"serving/([\w./-]*\w)", files["README.md"]))
    folders = {name.rpartition("/")[0] for name in files}
    assert named <= set(files) | made | folders
