"""Dockerfiles, read by a small parser, against the layout of a bundle and the table of JetPacks."""

from __future__ import annotations

import json
import re

import pytest

from edge_inception.bundle.serving import docker
from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import JETPACKS, parse_version

# Of the tags: docs/hardware.md, "JetPack releases"; JetPack 5.1 takes the newest image of L4T 35.
L4T = {"4": "r32.7.1", "5.0.2": "r35.1.0", "5.1": "r35.", "6.0": "r36.3.0", "6.1": "r36.4.0"}
FOLDERS = ("graphs", "golden", "licences", "serving", "engine")
KNOWN = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "VOLUME", "ENTRYPOINT", "CMD"}


def instructions(text):
    """[(instruction, arguments)]; comments left out, continued lines joined."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.split("\n") if line.strip()]


@pytest.fixture
def bundle(tmp_path):
    """A bundle's files by name, with an engine that was built on another device."""
    for name in ("manifest.json", "device.py", "_nvinfer.py", "_cuda.py", "pixels.py"):
        (tmp_path / name).touch()
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return tmp_path


STOCK = [row for row in JETPACKS if row.is_stock and row.opset is not None]


@pytest.mark.parametrize("release", STOCK, ids=lambda row: row.name)
def test_base_image_holds_the_tensorrt_of_its_jetpack(release):
    """Each release that we build for has one image, of its TensorRT up to the last number."""
    (base,) = (row for row in docker.BASE_IMAGES if row.runs_on(release))
    assert parse_version(base.tensorrt)[:2] == parse_version(release.tensorrt)[:2]
    assert base.is_mounted == (parse_version(release.first) < (5,)), (
        "only JetPack 4 mounts the host's"
    )


@pytest.mark.parametrize("base", docker.BASE_IMAGES, ids=lambda base: base.first)
def test_image_is_pinned_to_a_release(base):
    """An L4T image has the tag of its release, an NGC one that of a month; each has a source."""
    assert base.source
    name, tag = base.image.removeprefix("nvcr.io/nvidia/").split(":")
    if name == "tensorrt":
        assert re.fullmatch(r"\d\d\.\d\d-py3", tag)
        assert parse_version(base.first) >= (7,)
    else:
        assert name == ("l4t-base" if base.is_mounted else "l4t-jetpack")
        (wanted,) = (l4t for first, l4t in L4T.items() if base.first.startswith(first))
        assert tag.startswith(wanted)


def test_rows_are_in_order_and_do_not_overlap():
    """A JetPack release never has two images."""
    ends = [parse_version(end) for base in docker.BASE_IMAGES for end in (base.first, base.last)]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nano-4gb", ["4.6.1"]),
        ("xavier-nx-8gb", ["4.6.1", "5.0.2", "5.1"]),
        ("orin-nx-16gb", ["5.1", "6.0", "6.1", "7.2"]),
        ("orin-nano-8gb-super", ["6.1", "7.2"]),
        ("thor-t5000", ["7.0", "7.2"]),
    ],
)
def test_a_dockerfile_per_jetpack_of_the_target(served, target, expected):
    """Nano stays on 4, Xavier ends with 5, Orin skips 7.0 and 7.1, Thor begins with them."""
    files = docker.render(served(target))
    assert list(files) == [f"docker/Dockerfile.jetpack-{first}" for first in expected]


def test_every_copied_source_is_in_the_bundle(served, bundle):
    """COPY takes what lies in the folder of the build, which is the bundle's."""
    for text in docker.render(served()).values():
        copies = [arguments.split() for name, arguments in instructions(text) if name == "COPY"]
        assert copies
        for *sources, _ in copies:
            assert sources
            assert all((bundle / source).exists() for source in sources)


@pytest.mark.parametrize("target", ["xavier-nx-8gb", "orin-nx-16gb", "thor-t5000"])
def test_dockerfile_runs_the_bundle(served, target):
    """Known instructions only; FROM first; device.py is the program, in its exec form."""
    one = served(target)
    images = [base.image for base in docker.base_images(one)]
    for text, image in zip(docker.render(one).values(), images, strict=True):
        steps = instructions(text)
        assert {name for name, _ in steps} == KNOWN
        assert steps[0] == ("FROM", image)
        parts = dict(steps)
        assert "NVIDIA_VISIBLE_DEVICES=all" in parts["ENV"].split()
        assert json.loads(parts["ENTRYPOINT"]) == ["/usr/bin/python3", "device.py"]
        assert json.loads(parts["CMD"]) == ["verify"]
        assert parts["VOLUME"] == parts["WORKDIR"] + "/engine"


def test_no_engine_of_another_device_is_kept(served):
    """The last RUN empties the engine's folder after the bundle was copied."""
    for text in docker.render(served()).values():
        names = [name for name, _ in instructions(text)]
        runs = [arguments for name, arguments in instructions(text) if name == "RUN"]
        assert runs[-1].startswith("rm -rf engine")
        assert names.index("COPY") < len(names) - 1 - names[::-1].index("RUN")


@pytest.mark.parametrize("name", ["Solar_V4.int8", "a", "x-1..y--z", "0_.-"])
def test_image_is_named_as_docker_wants(served, name):
    """Lower case, single separators inside; run with the NVIDIA runtime; the newest JetPack."""
    text = docker.usage(served(name=name))
    (tag,) = re.findall(  # of the newest JetPack
        r"docker build -f serving/docker/Dockerfile.jetpack-7.2 -t (\S+) \.", text
    )
    assert re.fullmatch(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", tag)
    assert text.count("docker run --rm --runtime nvidia") == 2


@pytest.mark.parametrize("target", ["cpu", "rtx", "l4"])
def test_target_without_jetpack_is_refused(served, target):
    """There is no JetPack image for a PC."""
    with pytest.raises(InputError, match="no JetPack") as caught:
        docker.render(served(target))
    assert "device.py" in caught.value.hint
