"""Which images, in which order, with which labels; what is ambiguous is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inception.data import imageset as subject
from edge_inception.data.imageset import open_set
from edge_inception.errors import InputError


def put(path, content):
    """A file of any bytes: a set is opened by names and bytes, nothing is decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def refused(location, **options):
    with pytest.raises(InputError) as caught:
        open_set(location, **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    return str(caught.value)


@pytest.fixture
def labelled(tmp_path):
    """cat: 2 images, dog: 1."""
    for name in ("dog/x.png", "cat/b.PNG", "cat/a.jpeg"):
        put(tmp_path / "labelled" / name, name)
    return tmp_path / "labelled"


@pytest.fixture
def labels(tmp_path):
    def write(text):
        return put(tmp_path / "labels.txt", text)

    return write


class TestPlainFolder:
    def test_sorted_and_unlabelled(self, tmp_path):
        """All images by name, without labels, each with the sha256 of its bytes."""
        for name in ("b.png", "a.tiff", "C.webp", "notes.txt"):
            put(tmp_path / name, name)
        found = open_set(tmp_path)
        assert [item.path.name for item in found.items] == ["C.webp", "a.tiff", "b.png"]
        assert [item.label for item in found.items] == [None] * 3
        assert found.items[1].sha256 == hashlib.sha256(b"a.tiff").hexdigest()
        assert not found.is_labelled
        assert found.classes == ()

    def test_odd_names(self, tmp_path):
        """Spaces, other scripts, quotes, line breaks and bytes that are no UTF-8 are names too."""
        odd = ["a b.png", "Zelle ü 太陽.png", "it's.png", "two\nlines.png"]
        odd.append(os.fsdecode(b"\xff.png"))
        for name in odd:
            put(tmp_path / name, "x")
        found = open_set(tmp_path)
        assert sorted(item.path.name for item in found.items) == sorted(odd)
        assert len(found.sha256) == 64

    def test_hidden_files_are_passed_over(self, tmp_path):
        """Hidden files and folders, such as macOS's ._photo.png, are no images."""
        put(tmp_path / "a.png", "a")
        put(tmp_path / "._a.png", "resource fork")
        put(tmp_path / ".ipynb_checkpoints" / "a.png", "copy")
        assert [item.path.name for item in open_set(tmp_path).items] == ["a.png"]

    def test_links(self, tmp_path):
        """A link to a photo is that photo; a broken one is refused and not passed over."""
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "a.png").symlink_to(put(tmp_path / "elsewhere.png", "a"))
        assert open_set(tmp_path / "set").items[0].sha256 == hashlib.sha256(b"a").hexdigest()
        (tmp_path / "set" / "b.png").symlink_to(tmp_path / "absent.png")
        assert "b.png" in refused(tmp_path / "set")

    def test_folder_named_like_an_image(self, tmp_path):
        """A folder called a.png is a folder."""
        put(tmp_path / "a.png" / "x.png", "x")
        assert open_set(tmp_path).classes == ("a.png",)

    def test_duplicates_stay(self, tmp_path):
        """Two files of the same bytes are two images: nothing is dropped in silence."""
        put(tmp_path / "a.png", "same")
        put(tmp_path / "b.png", "same")
        assert len(open_set(tmp_path).items) == 2

    def test_labels_file_names_the_classes(self, tmp_path, labels):
        """A labels file beside unlabelled photos names the logits, and labels nothing."""
        put(tmp_path / "set" / "a.png", "a")
        found = open_set(tmp_path / "set", labels=labels("x\ny\n"))
        assert found.classes == ("x", "y")
        assert not found.is_labelled

    def test_empty(self, tmp_path):
        """An empty folder is refused, with the suffixes that were looked for."""
        with pytest.raises(InputError, match="no images in") as caught:
            open_set(tmp_path)
        assert ".png" in caught.value.hint

    def test_only_other_files(self, tmp_path):
        """A folder of other files is refused like an empty one."""
        put(tmp_path / "a.gif.txt", "x")
        assert "no images" in refused(tmp_path)

    def test_missing(self, tmp_path):
        """A missing folder is named."""
        assert "absent" in refused(tmp_path / "absent")

    def test_a_single_image(self, tmp_path):
        """A file is neither a folder nor a set file."""
        assert "no such folder" in refused(put(tmp_path / "a.png", "x"))

    def test_split_of_a_folder(self, tmp_path):
        """Folders have no splits."""
        assert "split 'train'" in refused(tmp_path, split="train")


class TestClassFolders:
    def test_sorted_order(self, labelled):
        """Without a labels file, class folders are indexed in sorted order."""
        found = open_set(labelled)
        assert found.classes == ("cat", "dog")
        assert [(i.path.name, i.label) for i in found.items] == [
            ("a.jpeg", 0),
            ("b.PNG", 0),
            ("x.png", 1),
        ]
        assert found.is_labelled

    def test_deeper_folders_belong_to_their_class(self, labelled):
        """Folders within a class folder are of that class; their links are not followed."""
        put(labelled / "cat" / "2024" / "c.png", "c")
        (labelled / "cat" / "loop").symlink_to(labelled)
        labels = [(i.path.name, i.label) for i in open_set(labelled).items]
        assert sorted(labels) == [("a.jpeg", 0), ("b.PNG", 0), ("c.png", 0), ("x.png", 1)]

    def test_linked_class_folder(self, labelled, tmp_path):
        """A class folder may be a link."""
        put(tmp_path / "birds" / "b.png", "b")
        (labelled / "bird").symlink_to(tmp_path / "birds")
        assert open_set(labelled).classes == ("bird", "cat", "dog")

    def test_labels_file_gives_the_index(self, labelled, labels):
        """The line number is the logit index, also of classes that no photo shows."""
        found = open_set(labelled, labels=labels("bird\ndog\ncat\n"))
        assert found.classes == ("bird", "dog", "cat")
        assert [item.label for item in found.items] == [2, 2, 1]

    def test_labels_file_with_a_mark_and_windows_ends(self, labelled, labels):
        """A byte order mark and CR LF are not part of a name; line ends of other scripts are."""
        found = open_set(labelled, labels=labels("\ufeffcat\r\ndog\u2028x\r\ndog\r\n\r\n"))
        assert found.classes == ("cat", "dog\u2028x", "dog")

    def test_class_missing_from_the_labels(self, labelled, labels):
        """A class folder that the labels file does not name is refused by name."""
        assert refused(labelled, labels=labels("cat\n")).endswith("labels file: dog")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no class name in line 1"),
            ("cat\n\ndog\n", "no class name in line 2"),
            ("cat\ndog\ncat\n", "'cat' twice"),
        ],
    )
    def test_spoilt_labels(self, labelled, labels, text, message):
        """An empty or repeated line would shift the logit indices; it is refused."""
        assert message in refused(labelled, labels=labels(text))

    def test_labels_that_are_no_text(self, labelled, tmp_path):
        """A binary or missing labels file is refused."""
        (tmp_path / "l.txt").write_bytes(b"\xff\xfe\xfa")
        for path in (tmp_path / "l.txt", tmp_path / "absent.txt", tmp_path):
            assert "cannot read labels file" in refused(labelled, labels=path)

    def test_class_of_any_bytes(self, labelled):
        """A class folder whose name is no UTF-8 is a class like any other."""
        (labelled / "dog").rename(labelled / os.fsdecode(b"\xff"))
        assert len(open_set(labelled).sha256) == 64

    def test_mixed(self, labelled):
        """Photos beside class folders are refused: are they labelled or not?"""
        put(labelled / "loose.png", "x")
        assert "both images and folders of images" in refused(labelled)

    def test_empty_class_folder(self, labelled, labels):
        """An empty folder may be a class; without a labels file it would shift the others."""
        (labelled / "ape").mkdir()
        assert "no images in" in refused(labelled)
        assert open_set(labelled, labels=labels("ape\ncat\ndog")).items[0].label == 1

    def test_hidden_folder_is_no_class(self, labelled):
        """A hidden folder of photos is not a class."""
        put(labelled / ".thumbnails" / "a.png", "small")
        assert open_set(labelled).classes == ("cat", "dog")

    def test_same_photo_in_two_classes(self, labelled):
        """One photo cannot be of two classes; both files are named."""
        put(labelled / "dog" / "copy.png", "cat/b.PNG")
        message = refused(labelled)
        assert "copy.png" in message
        assert "b.PNG" in message

    def test_same_photo_twice_in_a_class(self, labelled):
        """Twice in the same class is allowed."""
        put(labelled / "cat" / "copy.png", "cat/b.PNG")
        assert len(open_set(labelled).items) == 4

    def test_unreadable_folder(self, labelled):
        """A folder that may not be listed is refused and not taken for empty."""
        (labelled / "cat").chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            assert "Permission denied" in refused(labelled)
        finally:
            if is_root:
                os.seteuid(0)
            (labelled / "cat").chmod(0o755)


class TestDigest:
    def test_bytes_and_labels_decide(self, labelled):
        """Names and order do not change the set's digest; a byte, a label or a class name does."""
        before = open_set(labelled).sha256
        (labelled / "cat" / "a.jpeg").rename(labelled / "cat" / "zz.png")
        assert open_set(labelled).sha256 == before
        shutil.move(labelled / "cat" / "zz.png", labelled / "dog" / "zz.png")
        moved = open_set(labelled).sha256
        (labelled / "dog").rename(labelled / "wolf")
        renamed = open_set(labelled).sha256
        put(labelled / "cat" / "b.PNG", "other bytes")
        changed = open_set(labelled).sha256
        assert len({before, moved, renamed, changed}) == 4

    def test_subset_is_spread(self, tmp_path):
        """Each class has its share, no image comes twice, and the set's order stays."""
        for index in range(10):
            put(tmp_path / f"{'ab'[index // 5]}/{index}.png", str(index))
        whole = open_set(tmp_path)
        part = whole.subset(4)
        assert [item.label for item in part.items] == [0, 0, 1, 1]
        assert list(part.items) == [item for item in whole.items if item in part.items]
        assert len({item.path for item in part.items}) == 4
        assert part.classes == whole.classes
        assert whole.subset(10) == whole
        assert whole.subset(99) == whole

    def test_subset_is_by_content(self, tmp_path):
        """Neither the order nor the names of the images decide which are picked."""
        for folder, names in (("one", range(20)), ("two", range(99, 79, -1))):
            for index, name in enumerate(names):
                put(tmp_path / folder / f"{name:02}.png", str(index))
        picked = [open_set(tmp_path / folder).subset(7) for folder in ("one", "two")]
        assert picked[0].sha256 == picked[1].sha256
        assert [item.path.name for item in picked[0].items] != [
            item.path.name for item in picked[1].items
        ]

    def test_subset_of_nothing(self, labelled):
        """A subset of no images is the caller's mistake."""
        with pytest.raises(ValueError, match="at least 1"):
            open_set(labelled).subset(0)

    def test_overlap_is_by_bytes(self, tmp_path):
        """The same photo under another name overlaps; another photo of the same name does not."""
        put(tmp_path / "one" / "a.png", "same")
        put(tmp_path / "one" / "b.png", "mine")
        put(tmp_path / "two" / "renamed.png", "same")
        put(tmp_path / "two" / "b.png", "theirs")
        first, second = open_set(tmp_path / "one"), open_set(tmp_path / "two")
        assert subject.overlap(first, second) == [tmp_path / "one" / "a.png"]
        assert subject.overlap(second, first) == [tmp_path / "two" / "renamed.png"]


@pytest.fixture
def record(tmp_path):
    """A set file of two splits; its photos stand beside it."""
    images = []
    for index, split in enumerate(("train", "train", "validation")):
        put(tmp_path / "photos" / f"{index}.png", f"photo {index}")
        digest = hashlib.sha256(f"photo {index}".encode()).hexdigest()
        images.append({"id": f"{index}.png", "sha256": digest, "label": index % 2, "split": split})
    images[1]["weight"] = 0.5
    return {
        "schema": 1,
        "name": "pets",
        "classes": ["cat", "dog"],
        "source": {"folder": "photos"},
        "images": images,
    }


@pytest.fixture
def saved(tmp_path, record):
    def save():
        return put(tmp_path / "set.json", json.dumps(record))

    return save


class TestSetFile:
    def test_a_split(self, saved, tmp_path):
        """A split has its images in the file's order, with labels, weights and class names."""
        found = open_set(saved(), split="train")
        assert found.name == "pets/train"
        assert found.classes == ("cat", "dog")
        assert [(i.path, i.label, i.weight) for i in found.items] == [
            (tmp_path / "photos" / "0.png", 0, 1.0),
            (tmp_path / "photos" / "1.png", 1, 0.5),
        ]

    @pytest.mark.parametrize(
        ("split", "words"), [("", "has splits, and none is named"), ("test", "has no split 'test'")]
    )
    def test_unknown_split(self, saved, split, words):
        """A split that does not exist, or none, is refused with those that do."""
        with pytest.raises(InputError, match=words) as caught:
            open_set(saved(), split=split)
        assert caught.value.hint.startswith("splits: train, validation; name one with --split")

    def test_changed_image(self, saved, tmp_path):
        """An image whose bytes changed since is named."""
        put(tmp_path / "photos" / "1.png", "retouched")
        assert "1.png is not the image" in refused(saved(), split="train")
        assert open_set(saved(), split="validation").items

    def test_missing_image(self, saved, tmp_path):
        """Images that are gone are counted, and the first one named."""
        (tmp_path / "photos" / "0.png").unlink()
        assert "1 images of set.json are not in" in refused(saved(), split="train")

    def test_missing_package(self, saved, record):
        """Images of a package that is not installed: the hint is the command that installs it."""
        record["source"] = {"module": "no_such_photos", "distribution": "no-such-photos==1.0"}
        with pytest.raises(InputError, match="no-such-photos") as caught:
            open_set(saved(), split="train")
        assert caught.value.hint == "pip install no-such-photos==1.0"

    @pytest.mark.parametrize("module", ["json", "no_such.photos", "no_such_photos"])
    def test_module_without_a_folder(self, saved, record, module):
        """A dotted name of nothing is refused; a real package is looked into."""
        record["source"] = {"module": module}
        refused(saved(), split="train")

    def test_labels_beside_a_set(self, saved, labels):
        """A set file has its own classes; a labels file beside it is refused and not ignored."""
        assert "labels file" in refused(saved(), split="train", labels=labels("a\nb"))

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}", "\x00"])
    def test_not_a_set(self, tmp_path, text):
        """Other JSON, or none, is refused."""
        refused(put(tmp_path / "set.json", text), split="train")

    def test_missing_set(self, tmp_path):
        """A missing set file is named."""
        assert "No such file" in refused(tmp_path / "set.json", split="train")

    @pytest.mark.parametrize("key", ["schema", "name", "classes", "source", "images"])
    def test_missing_key(self, saved, record, key):
        """A set file without one of its keys is refused, with the key."""
        del record[key]
        with pytest.raises(InputError, match="not a set file") as caught:
            open_set(saved(), split="train")
        assert key in caught.value.hint

    def test_other_schema(self, saved, record):
        """A set file of another schema is refused."""
        record["schema"] = 2
        assert "schema 1" in refused(saved(), split="train")

    @pytest.mark.parametrize(
        "change",
        [
            {"label": 2},
            {"label": -1},
            {"label": "cat"},
            {"label": True},
            {"id": 7},
            {"split": None},
            {"weight": 1.5},
            {"weight": -0.1},
            {"weight": "half"},
            {"sha256": None},
        ],
    )
    def test_spoilt_record(self, saved, record, change):
        """A record whose label, weight or text is out of range is refused by its number."""
        record["images"][1] |= change
        assert "image 1 is not a record" in refused(saved(), split="validation")

    def test_record_without_a_label_key(self, saved, record):
        """A record without a key is refused; null says unlabelled."""
        record["images"][0]["label"] = None
        assert not open_set(saved(), split="train").is_labelled
        del record["images"][0]["label"]
        assert "image 0 is not a record" in refused(saved(), split="train")

    def test_same_photo_in_two_classes(self, saved, record, tmp_path):
        """A set file cannot give one photo two labels."""
        put(tmp_path / "photos" / "1.png", "photo 0")
        record["images"][1]["sha256"] = record["images"][0]["sha256"]
        assert "another class" in refused(saved(), split="train")

    @settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("train", "validation")),
                st.none() | st.integers(0, 2),
                st.floats(0, 1),
                st.dictionaries(st.sampled_from(("grade", "licence")), st.text("ab"), max_size=2),
            ),
            min_size=1,
            max_size=4,
        ),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    )
    def test_whatever_a_set_says_is_read(self, tmp_path, rows, name):
        """Each split is its images, in order, with labels and weights; what people add is left."""
        images = []
        for index, (split, label, weight, notes) in enumerate(rows):
            path = put(tmp_path / "any" / f"{index}.png", f"photo {index}")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            known = {"id": path.name, "sha256": digest, "split": split, "label": label}
            images.append(known | {"weight": weight} | notes)
        said = {"schema": 1, "name": name, "classes": ["a", "b", "c"], "images": images}
        said |= {"source": {"folder": "any"}, "licence": "CC0"}
        saved = put(tmp_path / "any.json", json.dumps(said))
        for split in {row[0] for row in rows}:
            found = open_set(saved, split=split)
            assert (found.name, found.classes) == (f"{name}/{split}", ("a", "b", "c"))
            assert [(one.path.name, one.label, one.weight) for one in found.items] == [
                (f"{index}.png", row[1], row[2])
                for index, row in enumerate(rows)
                if row[0] == split
            ]
