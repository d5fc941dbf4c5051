"""Every Markdown page that is cited anywhere exists, and has the heading that is cited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edge_inception"
PAGES = PACKAGE / "docs"
KINDS = {".py", ".toml", ".md", ".html", ".json", ".yaml", ".yml", ""}
SKIPPED = {"__pycache__", "results"}

# path.md, then perhaps a heading in quotes: a comment or a string may break the line before it
CITATION = re.compile(r"""(?<![\w./-])([\w./-]*\w\.md)\b(?:`?,[\s#'"]*?"([^"\n]+)")?""")
LINK = re.compile(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)")
BANNED = re.compile(r"facts/|(?:^|/)(?:DESIGN|STYLE|HOUSE)\.md$")
# Pages of others, and those that a build or a bundle writes.
ELSEWHERE = {
    "onnx/docs/Versioning.md",
    "onnx/docs/Changelog.md",
    "docs/operators.md",  # of onnx/onnx-tensorrt
    "operators.md",
    "operators/README.md",  # of NVIDIA/Deep-Learning-Accelerator-SW
    "tegrastats-fields.md",  # of NVIDIA/skills
    "report.md",
    "serving/README.md",
}


def headings(page: Path) -> set[str]:
    """Headings of a page; a line within a code block is none."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    return {title.strip() for title in re.findall(r"(?m)^#+ (.+)$", text)}


def why_not(cited: str, heading: str, found_in: Path) -> str:
    """What is wrong with a citation, or an empty string."""
    if BANNED.search(cited):
        return f"{cited} is in no clone"
    if cited in ELSEWHERE:
        return ""
    places = [PACKAGE / cited, ROOT / cited, found_in.parent / cited]
    page = next((place for place in places if place.is_file()), None)
    if page is None:
        return f"there is no {cited}"
    if heading and heading not in headings(page):
        return f'{cited} has no heading "{heading}"'
    return ""


def wrong(text: str, found_in: Path) -> list[str]:
    """What is wrong with the citations in ``text``."""
    cited = [(page, heading) for page, heading in CITATION.findall(text)]
    cited += [(page, "") for page in LINK.findall(text)]
    return [reason for page, heading in cited if (reason := why_not(page, heading, found_in))]


def files() -> Iterator[Path]:
    """Every text of the package, the tests, the evidence and the project's own pages."""
    folders = [PACKAGE, ROOT / "tests", ROOT / "calibration", ROOT / ".github", ROOT / ".ci"]
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in KINDS)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            is_text = path.is_file() and path.suffix in KINDS
            if is_text and not SKIPPED & {*path.relative_to(ROOT).parts}:
                yield path


def test_every_citation_resolves():
    """Each cited page is there, with its heading; none of the notes that no clone has is cited."""
    found = {
        f"{path.relative_to(ROOT)}: {reason}"
        for path in files()
        if path != Path(__file__)
        for reason in wrong(path.read_text(encoding="utf-8"), path)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('# as docs/dla.md, "Limits"', ""),
        ('# of docs/dla.md,\n# "Limits"', ""),
        ('see `docs/dla.md, "Limits"`', ""),
        ("see calibration/README.md", ""),
        ("# as docs/dla.md, the limits", ""),
        ('# of docs/dla.md, "No such"', 'docs/dla.md has no heading "No such"'),
        ('# of docs/dla.md,\n# "No such"', 'docs/dla.md has no heading "No such"'),
        ("# docs/absent.md", "there is no docs/absent.md"),
        ("[a page](docs/absent.md#part)", "there is no docs/absent.md"),
        ("# facts/jetson.md 1.1", "facts/jetson.md is in no clone"),
        ("# DESIGN.md 1", "DESIGN.md is in no clone"),
        ("# ../shared/STYLE.md", "../shared/STYLE.md is in no clone"),
        ("# HOUSE.md", "HOUSE.md is in no clone"),
    ],
)
def test_citations_are_judged(text, reason):
    """What resolves passes; a page or a heading that is not there is told, across lines too."""
    assert sorted(set(wrong(text, PACKAGE / "x.py"))) == ([reason] if reason else [])


def test_every_page_is_cited():
    """A page that no code cites would be a dump."""
    code = "".join(path.read_text(encoding="utf-8") for path in files() if path.suffix == ".py")
    names = {f"docs/{path.name}" for path in PAGES.glob("*.md")}
    assert names
    assert names <= {page for page, _ in CITATION.findall(code)}
