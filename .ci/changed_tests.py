"""Run the fast tests of what changed, for `make quick`.

Usage: python .ci/changed_tests.py [--seconds 100] [--list]. A changed test file runs itself; a
changed module runs the test files that mirror it under tests/unit/, then those of tests/unit/ and
tests/contract/ that import it. A test that has not begun when the seconds are over is skipped, and
pytest's summary names its file. The same module is the pytest plug-in that skips.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "edge_inception"
CITATIONS = "tests/contract/test_citations.py"
NOTHING_COLLECTED = 5  # pytest's exit code where all that was found is slow
FEW = 2  # files up to which a second process takes longer to start than it saves
OWN, MIRROR, IMPORTER, BELOW = range(4)
NO_TIME = "no time left"
RAN: set[str] = set()
LEFT: set[str] = set()


def git(root: Path, *arguments: str) -> str:
    """What git prints; empty where it refuses."""
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip("\n") if done.returncode == 0 else ""


def base(root: Path) -> tuple[str, str]:
    """The commit that the working tree is compared with, and what it is in words."""
    is_main = git(root, "branch", "--show-current") == "main"
    for name in ("origin/main",) if is_main else ("main", "origin/main"):
        commit = git(root, "merge-base", "HEAD", name)
        if commit:
            return commit, f"the commit {commit[:9]} that HEAD shares with {name}"
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD~1")
    return (commit, "HEAD~1") if commit else ("HEAD", "HEAD")


def changed_files(root: Path, commit: str) -> list[str]:
    """Paths that differ from ``commit``, uncommitted and deleted ones included."""
    tracked = git(root, "diff", "--name-only", "--no-renames", "-z", commit)
    added = git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return sorted({name for name in f"{tracked}\0{added}".split("\0") if name})


def tests_of(root: Path, changed: list[str]) -> list[str]:
    """Test files for the changed paths: the closest first, then by name."""
    ranks: dict[str, int] = {}
    for path in changed:
        for rank, test in _tests_of(root, path):
            ranks[test] = min(rank, ranks.get(test, rank))
    return sorted(ranks, key=lambda test: (ranks[test], test))


def _tests_of(root: Path, path: str) -> Iterator[tuple[int, str]]:
    name = Path(path)
    top = name.parts[0]
    if name.suffix == ".md":
        yield MIRROR, CITATIONS
    if top == "tests" and len(name.parts) > 2:  # noqa: PLR2004 -- tests/KIND/FILE
        yield from _of_tests(root, name)
    elif name == Path("tests/conftest.py"):
        yield from ((BELOW, test) for test in _test_files(root / "tests"))
    elif top == PACKAGE and name.suffix == ".py":
        yield from ((MIRROR, test) for test in _mirrors(root, name))
        yield from ((IMPORTER, test) for test in _importers(root, _module(name)))
    elif top == PACKAGE:
        room = root / "tests/unit" / "/".join(name.parts[1:2])
        yield from ((BELOW, test) for test in _test_files(room) if len(name.parts) > 2)  # noqa: PLR2004
    elif name.suffix == ".py" and (root / f"tests/contract/test_{name.stem}.py").exists():
        yield MIRROR, f"tests/contract/test_{name.stem}.py"


def _of_tests(root: Path, name: Path) -> Iterator[tuple[int, str]]:
    """A test file, what test files share, or data that they read."""
    if name.match("test_*.py"):
        if (root / name).exists():
            yield OWN, name.as_posix()
    elif name.suffix == ".py" and name.name != "conftest.py":
        yield from ((IMPORTER, test) for test in _importers(root, name.stem))
    else:
        folder = next(p for p in (root / name).parents if p == root / "tests" or _test_files(p))
        yield from ((BELOW, test) for test in _test_files(folder))


def _module(name: Path) -> str:
    parts = name.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _mirrors(root: Path, name: Path) -> Iterator[str]:
    """Files of the same room under tests/unit/ named after the module, an underscore left out."""
    folder = root / "tests/unit" / Path(*name.parts[1:-1])
    stem = name.stem.strip("_")
    for pattern in (f"test_{stem}.py", f"test_{stem}_*.py"):
        yield from (path.relative_to(root).as_posix() for path in folder.glob(pattern))


def _importers(root: Path, module: str) -> Iterator[str]:
    """Test files of units and contracts that import ``module``."""
    for kind in ("unit", "contract"):
        for test in _test_files(root / "tests" / kind):
            if module in _imports(root, test):
                yield test


def _test_files(folder: Path) -> list[str]:
    root = next(parent for parent in (folder, *folder.parents) if parent.name == "tests").parent
    return sorted(path.relative_to(root).as_posix() for path in folder.rglob("test_*.py"))


@cache
def _imports(root: Path, test: str) -> frozenset[str]:
    """Modules that a test file imports anywhere in it, and those that it names in a string."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((root / test).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            folder = root.joinpath(*node.module.split("."))
            names = [alias.name for alias in node.names]
            inside = {n for n in names if (folder / n).is_dir() or (folder / f"{n}.py").exists()}
            found |= {f"{node.module}.{name}" for name in inside}
            found |= {node.module} if inside < set(names) else set()
        elif isinstance(node, ast.Constant) and str(node.value).startswith(f"{PACKAGE}."):
            found.add(str(node.value).partition(":")[0])
    return frozenset(found)


def pytest_addoption(parser: Any) -> None:
    """When to begin no more tests, in seconds since 1970."""
    parser.addoption("--deadline", type=float, default=float("inf"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: Any) -> None:
    """Skip what has not begun in time, before any fixture is made; the summary groups by file."""
    if time.time() > item.config.getoption("--deadline"):
        pytest.skip(f"{NO_TIME}, run: pytest {item.nodeid.partition('::')[0]}")


def pytest_runtest_logreport(report: Any) -> None:
    """Count what ran and what had no time."""
    if report.when == "call":
        RAN.add(report.nodeid)
    elif NO_TIME in str(report.longrepr):
        LEFT.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: Any) -> None:
    """Fail where tests were left out and none ran: that is no pass."""
    if LEFT and not RAN:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stdout.write("\nFAILED: no test had time, give them more --seconds\n")


def run(root: Path, tests: list[str], seconds: float) -> int:
    """Run pytest on ``tests`` in their order; its exit code, 0 where all of them are slow."""
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", Path(__file__).stem]
    command += ["--deadline", str(time.time() + seconds), *tests]
    if len(tests) > FEW:
        command += ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    code = subprocess.run(command, cwd=root, env=environment, check=False).returncode
    return 0 if code == NOTHING_COLLECTED else code


def main(arguments: list[str] | None = None) -> int:
    """Say what is compared, and run or list the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="begin no test after these")
    parser.add_argument("--list", action="store_true", help="print the files, run nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if not git(chosen.root, "rev-parse", "HEAD"):
        parser.exit(2, f"{chosen.root} is no git checkout: what changed there is not known\n")
    commit, words = base(chosen.root)
    changed = changed_files(chosen.root, commit)
    tests = tests_of(chosen.root, changed)
    sys.stdout.write(
        f"compared with {words}, and uncommitted: {len(changed)} changed files, "
        f"{len(tests)} test files\n"
    )
    sys.stdout.flush()
    if chosen.list:
        sys.stdout.write("".join(f"{test}\n" for test in tests))
        return 0
    return run(chosen.root, tests, chosen.seconds) if tests else 0


if __name__ == "__main__":
    sys.exit(main())
