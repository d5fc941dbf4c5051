"""The demo's set file says what the photos say: checked against the package, not its maker."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_inception.data import imageset

SET = Path(__file__).parents[3] / "calibration" / "sets" / "solar.json"
SHARES = {"train": 0.7, "calibration": 0.1, "validation": 0.2}


@pytest.fixture(scope="module")
def record():
    return json.loads(SET.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def package():
    """Folder of the photos; the demo and the tests need the package."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec, "pip install elpv-dataset"
    return Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module")
def rows(package):
    """(file, probability, cell type) of each line of the package's labels.csv, with numpy."""
    table = np.genfromtxt(package / "labels.csv", dtype=["U40", "f8", "U8"], encoding="utf-8")
    return {str(file): (float(grade), str(cell)) for file, grade, cell in table}


def test_no_photo_is_in_two_splits(record):
    """Photos of equal bytes are in one split, and no file is listed twice."""
    splits = {}
    for image in record["images"]:
        splits.setdefault(image["sha256"], set()).add(image["split"])
    assert all(len(where) == 1 for where in splits.values())
    assert len({image["id"] for image in record["images"]}) == len(record["images"])


@pytest.mark.slow
def test_no_photo_is_in_two_splits_as_pixels(record, package):
    """The same holds for decoded pixels, which equal pictures in unequal files would share."""
    splits = {}
    for image in record["images"]:
        with Image.open(package / image["id"]) as photo:
            digest = hashlib.sha256(photo.tobytes()).hexdigest()
        splits.setdefault(digest, set()).add(image["split"])
    assert all(len(where) == 1 for where in splits.values())


def test_labels_are_those_of_the_package(record, rows):
    """Label, grade, weight and cell type follow from labels.csv, for each of its photos."""
    assert {image["id"] for image in record["images"]} == set(rows)
    for image in record["images"]:
        probability, cell_type = rows[image["id"]]
        assert image["label"] == (1 if probability > 0.5 else 0)  # the grades are 0, 1/3, 2/3, 1
        numerator, _, denominator = image["grade"].partition("/")
        assert int(numerator) / int(denominator or 1) == pytest.approx(probability)
        assert image["weight"] == (1.0 if probability in {0.0, 1.0} else 0.5)
        assert image["cell_type"] == cell_type


def test_hashes_are_those_of_the_files(record, package):
    """Every sha256 is that of the file in the package."""
    for image in record["images"]:
        assert image["sha256"] == hashlib.sha256((package / image["id"]).read_bytes()).hexdigest()


def test_sizes_of_the_splits(record):
    """2,624 photos: 525 to validate, 262 to calibrate, the rest to train."""
    counts = Counter(image["split"] for image in record["images"])
    assert counts == {"train": 1837, "calibration": 262, "validation": 525}


def test_strata_keep_their_share(record):
    """Each of the eight strata is cut 70 / 10 / 20, to the photo (train takes both remainders)."""
    whole = Counter((image["grade"], image["cell_type"]) for image in record["images"])
    assert len(whole) == 8
    for split, share in SHARES.items():
        part = Counter(
            (i["grade"], i["cell_type"]) for i in record["images"] if i["split"] == split
        )
        for stratum, count in whole.items():
            slack = 2 if split == "train" else 1
            assert abs(part[stratum] - share * count) < slack, (split, stratum)


def test_licence_and_citation(record):
    """The set names the images' licence, where they come from and whom to cite."""
    assert "CC BY-NC-SA 4.0" in record["licence"]
    assert record["source"]["distribution"].startswith("elpv-dataset==")
    cited = " ".join(record["citation"])
    assert all(doi in cited for doi in ("35thEUPVSEC20182018-5CV.3.15", "j.solener.2019.02.067"))
    assert record["classes"] == ["functional", "defective"]
    assert record["label_rule"]


def test_made_by_its_script(tmp_path):
    """make_solar.py writes this very file."""
    script = tmp_path / "make_solar.py"
    script.write_bytes((SET.parent / "make_solar.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "solar.json").read_bytes() == SET.read_bytes()


@pytest.mark.parametrize("split", SHARES)
def test_opens(split):
    """Each split opens with its hashes checked, labelled, and apart from the others."""
    found = imageset.open_set(SET, split=split)
    assert found.is_labelled
    assert found.classes == ("functional", "defective")
    for other in SHARES:
        if other != split:
            assert not imageset.overlap(found, imageset.open_set(SET, split=other))


def test_readme_counts(record):
    """The table in calibration/README.md is that of the file."""
    readme = (SET.parents[1] / "README.md").read_text(encoding="utf-8")
    for split in SHARES:
        chosen = [image for image in record["images"] if image["split"] == split]
        by = Counter((record["classes"][i["label"]], i["cell_type"]) for i in chosen)
        cells = [by[c, t] for c in record["classes"] for t in ("mono", "poly")]
        line = f"| {split} | {' | '.join(map(str, cells))} | {len(chosen)} |"
        assert line in readme
