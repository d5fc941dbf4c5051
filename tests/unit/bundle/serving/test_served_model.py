"""Facts of serving: what no server could take is refused before a file is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_inception.bundle.serving import deepstream, triton
from edge_inception.bundle.serving.served_model import served_model
from edge_inception.errors import InputError
from edge_inception.hardware import targets

TARGET = targets.target("orin-nx-16gb")


def nvinfer_labels(text):
    """Labels by output, as parseLabelsFile of the DeepStream SDK splits them."""
    return [line.split(";") for line in text.split("\n") if line]


def outcome(make, *arguments, **options):
    """(what ``make`` returns, "") or (None, why it refused)."""
    try:
        return make(*arguments, **options), ""
    except InputError as error:
        return None, str(error)


@settings(deadline=None)  # the machine may be busy
@given(labels=st.lists(st.text(), min_size=3, max_size=3))
def test_labels_read_back_or_are_refused(details, labels):
    """Both servers' own splitting gives the same strings, unless the labels were refused."""
    served, refusal = outcome(served_model, details(classes=labels), TARGET, name="solar")
    if served is None:
        assert "label" in refusal
        assert not all(label.isprintable() and label for label in labels)
        return
    lines = triton.render(served)["triton/solar/labels.txt"].encode().decode().split("\n")
    assert lines == [*labels, ""]
    files, refusal = outcome(deepstream.render, served)
    if files is None:
        assert "separated by ';'" in refusal
        assert any(";" in label for label in labels)
        return
    assert nvinfer_labels(files["deepstream/labels.txt"]) == [labels]


@settings(deadline=None)  # the machine may be busy
@given(name=st.text() | st.from_regex(r"[A-Za-z0-9._ /%\"'-]{1,120}", fullmatch=True))
def test_names_are_plain_or_refused(details, name):
    """A name that a path, a unit or a command would have to quote never reaches a file."""
    served, refusal = outcome(served_model, details(), TARGET, name=name)
    if served is None:
        assert "name" in refusal
        return
    assert served.name == name
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert not name.startswith((".", "-"))


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", "a%b", "a\n", "-a", ".a", "x" * 101])
def test_name_that_needs_quoting_is_refused(details, name):
    """Empty, hidden, too long, with a blank, a slash, a specifier or a line break."""
    with pytest.raises(InputError, match="name"):
        served_model(details(), TARGET, name=name)


@pytest.mark.parametrize("classes", [("a",), ("a", "b", "c", "d")])
def test_wrong_number_of_labels_is_refused(details, classes):
    """Labels that are not one per class would name the wrong ones."""
    with pytest.raises(InputError, match="3 classes") as caught:
        served_model(details(classes=classes), TARGET, name="solar")
    assert "--labels" in caught.value.hint


@pytest.mark.parametrize("label", ["", "a\nb", "a\rb", "a\0b", "a\u2028b"])
def test_label_that_is_not_one_line_is_refused(details, label):
    """A line break of any kind, a control character, or nothing at all."""
    with pytest.raises(InputError, match="label 1 is"):
        served_model(details(classes=("a", label, "c")), TARGET, name="solar")


def test_embedding_has_no_labels(details):
    """The classes of the set that an embedding network was checked with are not its answer."""
    served = served_model(details(head="embedding"), TARGET, name="faces")
    assert served.labels == ()
