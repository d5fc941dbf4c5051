"""A Dockerfile for each base image that fits a JetPack of the target.

The engine is built when a container first runs and not with the image, since that build needs the
GPU and the engine is tied to the device.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_inception.bundle.serving.served_model import ServedModel
from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import JetPack, parse_version

_CONTAINERS_SOURCE = 'get_l4t_base in dusty-nv/jetson-containers, docs/hardware.md, "On the device"'
_NGC_SOURCE = "NGC tensorrt; l4t-jetpack ends with JetPack 6"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """A base image and the JetPack releases ``first`` to ``last`` that run it.

    ``tensorrt`` is the version in the image. With ``is_mounted`` the image has none: the host's
    TensorRT is mounted, so host and image must be of the same JetPack release.
    """

    first: str
    last: str
    image: str
    tensorrt: str
    source: str
    is_mounted: bool

    def runs_on(self, release: JetPack) -> bool:
        """Whether ``release`` and the releases of this image overlap."""
        first, last = parse_version(release.first), parse_version(release.last)
        return parse_version(self.first) <= last and first <= parse_version(self.last)


# First and last JetPack, image below nvcr.io/nvidia, TensorRT version, source of the row
_ROWS = (
    ("4.6.1", "4.6.6", "l4t-base:r32.7.1", "8.2.1", _CONTAINERS_SOURCE),
    ("5.0.2", "5.0.2", "l4t-jetpack:r35.1.0", "8.4.1", _CONTAINERS_SOURCE),
    ("5.1", "5.1.6", "l4t-jetpack:r35.4.1", "8.5.2", _CONTAINERS_SOURCE),
    ("6.0", "6.0", "l4t-jetpack:r36.3.0", "8.6.2", "NGC l4t-jetpack, tag of L4T 36.3.0"),
    ("6.1", "6.2.2", "l4t-jetpack:r36.4.0", "10.3.0", "NGC l4t-jetpack, tag of L4T 36.4.0"),
    ("7.0", "7.1", "tensorrt:25.09-py3", "10.13.3", _NGC_SOURCE),
    ("7.2", "7.2.2", "tensorrt:26.05-py3", "10.16.1", _NGC_SOURCE),
)
BASE_IMAGES = tuple(
    BaseImage(
        first=first,
        last=last,
        image=f"nvcr.io/nvidia/{image}",
        tensorrt=tensorrt,
        source=source,
        is_mounted=image.startswith("l4t-base"),
    )
    for first, last, image, tensorrt, source in _ROWS
)
"""Base images, oldest first. Names and versions are the sources'; no image was pulled or run here.

JetPack 4.6 has no row, since its TensorRT is 8.0.1 and the oldest that we build for is 8.2.
"""


def render(served: ServedModel) -> dict[str, str]:
    """Path -> text of ``docker/Dockerfile.jetpack-X`` for each base image that the target runs.

    Raises:
        InputError: The target has no JetPack.
    """
    return {
        f"docker/{_dockerfile_name(base)}": _dockerfile(served, base)
        for base in base_images(served)
    }


def usage(served: ServedModel) -> str:
    """Markdown on how to build the image, and how to build and verify the engine in a container."""
    base = base_images(served)[-1]
    tag = _image_tag(served)
    run = f"docker run --rm --runtime nvidia -v {tag}-engine:{served.home}/engine {tag}"
    return (
        f"```\ndocker build -f serving/docker/{_dockerfile_name(base)} -t {tag} .\n"
        f"{run} build\n{run} verify\n```\n"
        "Take the Dockerfile of the device's own JetPack. The engine lives in the volume: it is "
        "built once per device.\n"
    )


def base_images(served: ServedModel) -> tuple[BaseImage, ...]:
    """Base images that the target's JetPacks run, oldest first; at least one.

    Raises:
        InputError: The target has no JetPack.
    """
    if not served.target.is_jetson:
        raise InputError(
            f"target '{served.target.name}' has no JetPack, whose base images these are",
            hint="run device.py in an image that has the target's library and numpy",
        )
    stock = [release for release in served.target.releases if release.is_stock]
    return tuple(base for base in BASE_IMAGES if any(base.runs_on(release) for release in stock))


def _dockerfile_name(base: BaseImage) -> str:
    return f"Dockerfile.jetpack-{base.first}"


def _image_tag(served: ServedModel) -> str:
    """The image's name, in lower case and with single separators, as docker wants it."""
    words = "".join(char if char.isalnum() else " " for char in served.name.lower()).split()
    return "-".join(words)


def _dockerfile(served: ServedModel, base: BaseImage) -> str:
    releases = base.first if base.first == base.last else f"{base.first} to {base.last}"
    mounted = (
        "# The NVIDIA runtime mounts the host's TensorRT: the host must run this JetPack.\n"
        if base.is_mounted
        else ""
    )
    return f"""\
# {served.name} on JetPack {releases} (TensorRT {base.tensorrt}); run with --runtime nvidia.
# Base image: {base.source}.
{mounted}FROM {base.image}
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
    python3 python3-numpy python3-pil \\
 && rm -rf /var/lib/apt/lists/*
WORKDIR {served.home}
COPY . .
# These let --runtime nvidia alone show the GPU, whatever the base image sets.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
# An engine is tied to its device: none is taken from the folder of the build.
RUN rm -rf engine && mkdir engine
VOLUME {served.home}/engine
ENTRYPOINT ["/usr/bin/python3", "device.py"]
CMD ["verify"]
"""
