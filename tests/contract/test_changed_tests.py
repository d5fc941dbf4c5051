"""What `make quick` compares with, which tests it runs, and how it says what it left out."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "changed_tests.py"
FILES = {
    "edge_inception/__init__.py": "",
    "edge_inception/errors.py": "",
    "edge_inception/graph/__init__.py": "",
    "edge_inception/graph/_fold.py": "",
    "edge_inception/graph/page.html": "",
    "edge_inception/docs/dla.md": "# DLA\n",
    "tests/conftest.py": "",
    "tests/unit/test_errors.py": "def test_one(): pass\n",
    "tests/unit/graph/test_fold.py": "def test_one(): pass\n",
    "tests/unit/graph/test_fold_of_pads.py": "def test_one(): pass\n",
    "tests/unit/graph/records/a.json": "{}",
    "tests/unit/graph/conftest.py": "",
    "tests/unit/test_inside.py": "def test_one():\n    from edge_inception.graph import _fold\n",
    "tests/contract/fake_gpu.py": "",
    "tests/contract/test_gpu.py": "import fake_gpu\nNAME = 'edge_inception.graph._fold:open'\n",
    "tests/contract/test_citations.py": "import edge_inception.errors\n",
    "tests/contract/test_public.py": "from edge_inception import errors, __version__\n",
    "tests/e2e/test_build.py": "import edge_inception.errors\n",
    "README.md": "",
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("changed_tests", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(root, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        [shutil.which("git"), "-C", str(root), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def project(root, files):
    """A small project on branch main with one commit."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name], encoding="utf-8")
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


@pytest.fixture
def checkout(tmp_path):
    return project(tmp_path, FILES)


@pytest.fixture
def tests_alone(tmp_path):
    """Without a package of its own, so that pytest finds the plug-in of the real one."""
    return project(tmp_path, [name for name in FILES if name.startswith("tests/unit/test_")])


def commit(root, name):
    (root / name).write_text("changed = 1\n", encoding="utf-8")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", name)
    return git(root, "rev-parse", "HEAD")


FOLD = ["tests/unit/graph/test_fold.py", "tests/unit/graph/test_fold_of_pads.py"]


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("tests/e2e/test_build.py", ["tests/e2e/test_build.py"]),
        ("tests/unit/test_deleted.py", []),
        (
            "edge_inception/graph/_fold.py",
            [*FOLD, "tests/contract/test_gpu.py", "tests/unit/test_inside.py"],
        ),
        (
            "edge_inception/errors.py",
            [
                "tests/unit/test_errors.py",
                "tests/contract/test_citations.py",
                "tests/contract/test_public.py",
            ],
        ),
        ("edge_inception/__init__.py", ["tests/contract/test_public.py"]),
        ("edge_inception/graph/page.html", FOLD),
        ("edge_inception/docs/dla.md", ["tests/contract/test_citations.py"]),
        ("README.md", ["tests/contract/test_citations.py"]),
        ("tests/contract/fake_gpu.py", ["tests/contract/test_gpu.py"]),
        ("tests/unit/graph/conftest.py", FOLD),
        ("tests/unit/graph/records/a.json", FOLD),
        (".ci/public.py", ["tests/contract/test_public.py"]),
        ("Makefile", []),
    ],
)
def test_tests_of_a_changed_file(script, checkout, changed, tests):
    """Itself, its mirror, those that import it or name it, those beside the data: in this order."""
    assert script.tests_of(checkout, [changed]) == tests


def test_root_conftest_is_everybodys(script, checkout):
    """All test files, and those of a changed file stand before the others."""
    everything = sorted(name for name in FILES if Path(name).match("test_*.py"))
    found = script.tests_of(checkout, ["tests/conftest.py", "tests/unit/test_inside.py"])
    assert found[0] == "tests/unit/test_inside.py"
    assert sorted(found) == everything


def test_compared_on_a_branch_with_main(script, checkout):
    """The commit where the branch left main; commits, edits and new files count, main's do not."""
    left = git(checkout, "rev-parse", "HEAD")
    git(checkout, "switch", "--quiet", "--create", "work")
    commit(checkout, "one.py")
    (checkout / "edge_inception/errors.py").write_text("edited = 1\n", encoding="utf-8")
    (checkout / "new.py").write_text("", encoding="utf-8")
    (checkout / "README.md").unlink()
    found, words = script.base(checkout)
    assert found == left
    assert "main" in words
    wanted = ["README.md", "edge_inception/errors.py", "new.py", "one.py"]
    assert script.changed_files(checkout, found) == wanted
    git(checkout, "stash", "--quiet", "--include-untracked")
    git(checkout, "switch", "--quiet", "main")
    commit(checkout, "two.py")
    git(checkout, "switch", "--quiet", "work")
    assert script.changed_files(checkout, script.base(checkout)[0]) == ["one.py"]


def test_compared_on_main(script, checkout):
    """With origin/main where there is one, else with the commit before, else with HEAD itself."""
    first = git(checkout, "rev-parse", "HEAD")
    assert script.base(checkout)[0] == "HEAD"
    commit(checkout, "one.py")
    assert script.base(checkout) == (first, "HEAD~1")
    commit(checkout, "two.py")
    git(checkout, "update-ref", "refs/remotes/origin/main", first)
    found, words = script.base(checkout)
    assert found == first
    assert "origin/main" in words


def called(root, *flags):
    command = [sys.executable, SCRIPT, "--root", root, *flags]
    return subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True
    )


def test_failure_is_told(tests_alone):
    """A failing test fails the run; one that passes does not; one line says what is compared."""
    path = tests_alone / "tests/unit/test_errors.py"
    for body, code in (("assert True", 0), ("assert False", 1)):
        path.write_text(f"def test_one(): {body}\n", encoding="utf-8")
        done = called(tests_alone)
        assert done.returncode == code, done.stdout + done.stderr
        assert "1 passed" in done.stdout or code
    first = done.stdout.splitlines()[0]
    assert "HEAD" in first
    assert "1 test file" in first


def test_tests_without_time_are_named(tests_alone):
    """After the seconds no test begins and the summary names its file; where none ran, exit 1."""
    names = ("test_errors", "test_inside", "test_third")
    for name in names:
        path = tests_alone / "tests/unit" / f"{name}.py"
        path.write_text("def test_one(): assert False, 'it ran'\n", encoding="utf-8")
    done = called(tests_alone, "--seconds", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: no test had time" in done.stdout
    assert "it ran" not in done.stdout
    for name in names:
        assert f"no time left, run: pytest tests/unit/{name}.py" in done.stdout


def test_a_run_that_is_cut_short_passes(tests_alone):
    """Where some tests ran and the others had no time, the run passes and names the others."""
    first, second = (tests_alone / "tests/unit" / f"test_{n}.py" for n in ("errors", "inside"))
    body = "request.config.option.deadline = 0"
    first.write_text(f"def test_one(request): {body}\n", encoding="utf-8")
    second.write_text("def test_one(): assert False\n", encoding="utf-8")
    done = called(tests_alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped" in done.stdout
    assert "no time left, run: pytest tests/unit/test_inside.py" in done.stdout


def test_no_checkout_is_refused(tmp_path):
    """Without git nothing is known to have changed: exit 2 and one sentence."""
    done = called(tmp_path)
    assert done.returncode == 2
    assert "no git checkout" in done.stderr
