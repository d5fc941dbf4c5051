"""Plain `make` says what there is to make, and makes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_every_target_is_listed(arguments):
    """One line of at most 80 columns for each target, in the Makefile's order."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"(?m)^\.PHONY: (.+)$", text)
    command = [shutil.which("make"), "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == targets.split()
    assert all(len(line.split()) > 1 for line in lines)
    assert max(map(len, lines)) <= 80


def test_linked_environment_is_not_cleared(tmp_path):
    """Where .venv is a link, set-up refuses before it would empty what the link points to."""
    other, here = tmp_path / "other", tmp_path / "here"
    (here / ".ci").mkdir(parents=True)
    other.mkdir()
    (other / "kept").write_text("", encoding="utf-8")
    (here / ".venv").symlink_to(other)
    shutil.copy(ROOT / "Makefile", here)
    for name in ("pyproject.toml", ".ci/constraints.txt", ".ci/mend_stubs.py"):
        (here / name).write_text("", encoding="utf-8")
    command = [shutil.which("make"), "setup"]
    done = subprocess.run(command, cwd=here, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "is a link" in done.stderr
    assert (other / "kept").exists()
