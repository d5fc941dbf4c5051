"""Write solar.json from the pip package elpv-dataset: `python calibration/sets/make_solar.py`.

Split: 70 / 10 / 20 % (train / calibration / validation), stratified over the eight combinations of
defect probability and cell type, images of equal bytes kept together. The order within a stratum
is that of sha256(seed + image sha256), so the split depends on the images and not on file order.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

SEED = "solar-1"
NUM_VALIDATION, NUM_CALIBRATION = 525, 262
CLASSES = ("functional", "defective")
DEFECTIVE_FROM = 0.5
UNCERTAIN_WEIGHT = 0.5  # the experts were not sure: defect probability 1/3 or 2/3
GRADES = {"0.0": 0.0, "0.3333333333333333": 1 / 3, "0.6666666666666666": 2 / 3, "1.0": 1.0}
CITATION = (
    (
        "Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in "
        "Electroluminescence Imagery, EU PVSEC 2018, doi 10.4229/35thEUPVSEC20182018-5CV.3.15"
    ),
    (
        "Deitsch et al., Automatic classification of defective photovoltaic module cells in "
        "electroluminescence images, Solar Energy 185 (2019), doi 10.1016/j.solener.2019.02.067"
    ),
    (
        "Deitsch et al., Segmentation of photovoltaic module cells in uncalibrated "
        "electroluminescence images, Machine Vision and Applications 32 (2021), "
        "doi 10.1007/s00138-021-01191-9"
    ),
)
Stratum = tuple[object, object]


def read_images(root: Path) -> list[dict[str, object]]:
    """One record per row of labels.csv, without its split."""
    records = []
    for line in csv.reader((root / "labels.csv").open(encoding="utf-8"), delimiter=" "):
        image, grade, cell_type = (word for word in line if word)
        probability = GRADES[grade]
        digest = hashlib.sha256((root / image).read_bytes()).hexdigest()
        is_certain = probability in {0.0, 1.0}
        records.append(
            {
                "id": image,
                "sha256": digest,
                "label": int(probability >= DEFECTIVE_FROM),
                "grade": str(Fraction(probability).limit_denominator(3)),
                "cell_type": cell_type,
                "weight": 1.0 if is_certain else UNCERTAIN_WEIGHT,
            }
        )
    return records


def assign_splits(records: list[dict[str, object]]) -> None:
    """Add ``split`` to every record, in place."""
    strata = defaultdict(list)
    for record in records:
        strata[record["grade"], record["cell_type"]].append(record)
    for members in strata.values():
        members.sort(key=lambda r: hashlib.sha256((SEED + str(r["sha256"])).encode()).hexdigest())
    taken = dict.fromkeys(strata, 0)
    for split, wanted in (("validation", NUM_VALIDATION), ("calibration", NUM_CALIBRATION)):
        counts = shares({key: len(members) for key, members in strata.items()}, wanted)
        for key, members in strata.items():
            for record in members[taken[key] : taken[key] + counts[key]]:
                record["split"] = split
            taken[key] += counts[key]
    first_split: dict[object, object] = {}
    for record in records:
        split = record.setdefault("split", "train")
        record["split"] = first_split.setdefault(record["sha256"], split)


def shares(sizes: dict[Stratum, int], wanted: int) -> dict[Stratum, int]:
    """``wanted`` images shared out by size; largest remainders make the total exact."""
    total = sum(sizes.values())
    exact = {key: wanted * size / total for key, size in sizes.items()}
    counts = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: counts[key] - exact[key])
    for key in by_remainder[: wanted - sum(counts.values())]:
        counts[key] += 1
    return counts


def main() -> None:
    """Write solar.json next to this file."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install elpv-dataset==1.0.0.post1")
    records = read_images(Path(spec.submodule_search_locations[0]) / "data")
    assign_splits(records)
    header = {
        "schema": 1,
        "name": "solar",
        "title": "Electroluminescence photos of solar cells, 300 x 300, functional or defective",
        "classes": CLASSES,
        "label_rule": "defective when the experts' defect probability is at least 0.5",
        "source": {
            "distribution": "elpv-dataset==1.0.0.post1",
            "module": "elpv_dataset",
            "folder": "data",
        },
        "licence": "CC BY-NC-SA 4.0 (images); not redistributed here",
        "citation": CITATION,
        "made_by": f"calibration/sets/make_solar.py, seed {SEED}",
    }
    lines = ",\n    ".join(json.dumps(record) for record in records)
    text = json.dumps(header, indent=2)[:-2] + f',\n  "images": [\n    {lines}\n  ]\n}}\n'
    Path(__file__).with_name("solar.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
