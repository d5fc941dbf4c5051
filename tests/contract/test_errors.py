"""The error tree: what the docstring of errors.py promises is what the classes are."""

from __future__ import annotations

import inspect
import re

import pytest

from edge_inception import errors

CLASSES = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.EdgeInceptionError)
]
PROMISED = dict(re.findall(r"^[├└]── (\w+) +(\d+) ", errors.__doc__, flags=re.MULTILINE))
# Codes that are taken: 1 a bug, 2 click's usage, 130 an interrupt; 126 to 165 belong to the shell.
TAKEN = {0, 1, 2, *range(126, 256)}


def test_tree_is_the_classes():
    """The tree names every class and its exit code, and nothing else."""
    leaves = [kind for kind in CLASSES if kind is not errors.EdgeInceptionError]
    assert {kind.__name__: str(kind.exit_code) for kind in leaves} == PROMISED
    assert len(PROMISED) == 6
    assert all(kind.__bases__ == (errors.EdgeInceptionError,) for kind in leaves)
    assert errors.__doc__.count("EdgeInceptionError") == 1


def test_exit_codes_are_unique():
    """No two errors share an exit code, and none takes one that means something else."""
    codes = [int(code) for code in PROMISED.values()]
    assert len(set(codes)) == len(codes)
    assert not TAKEN & set(codes)


@pytest.mark.parametrize("kind", CLASSES)
def test_message_and_hint(kind):
    """Every error carries a message and a hint, and is an EdgeInceptionError."""
    error = kind("what went wrong", hint="what to do")
    assert (str(error), error.hint) == ("what went wrong", "what to do")
    assert isinstance(error, errors.EdgeInceptionError)
    assert kind("only this").hint == ""


@pytest.mark.parametrize("kind", CLASSES)
def test_one_line(kind):
    """A file name with line breaks, colours or stray bytes cannot break the one line."""
    error = kind("no \x1b[31m'a\nb\r\tc\udcff' ü 太", hint="try\n'x'")
    assert str(error) == r"no \x1b[31m'a\nb\r\tc\udcff' ü 太"
    assert error.hint == r"try\n'x'"
    str(error).encode("utf-8")
