"""JetPack releases and TensorRT's opsets as tables with sources; without third-party imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_inception.errors import InputError

Version = tuple[int, ...]

NANO = ("nano-4gb",)
TX2 = ("tx2-8gb",)
AGX_XAVIER = ("agx-xavier-16gb", "agx-xavier-32gb", "agx-xavier-64gb")
XAVIER = ("xavier-nx-8gb", "xavier-nx-16gb", *AGX_XAVIER)
AGX_ORIN = ("agx-orin-32gb", "agx-orin-64gb")
SUPER = ("orin-nano-4gb-super", "orin-nano-8gb-super")
ORIN = ("orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb", *AGX_ORIN)
T5000, T4000 = "thor-t5000", "thor-t4000"


@dataclass(frozen=True, slots=True, kw_only=True)
class JetPack:
    """JetPack releases ``first`` to ``last``, which ship the same libraries.

    Attributes:
        devices: Names of targets.
        cuda: Version of CUDA; every version is empty where it is not known.
        is_stock: Whether TensorRT comes with the release; False if it is installed on top of it.
        includes_later: Whether later releases, and TensorRT of the same major version, count too.
        sure: How certain the row is, a key of ``hardware.target.SURE``.
    """

    first: str
    last: str
    l4t: str
    tensorrt: str
    devices: tuple[str, ...]
    cuda: str = ""
    cudnn: str = ""
    ubuntu: str = ""
    python: str = ""
    is_stock: bool = True
    includes_later: bool = False
    sure: str = "V"
    source: str

    @property
    def name(self) -> str:
        """The releases, such as ``6.1 to 6.2.2``."""
        if self.includes_later:
            return f"{self.first} or later"
        return self.first if self.first == self.last else f"{self.first} to {self.last}"

    @property
    def opset(self) -> int | None:
        """Highest ONNX opset that the releases' TensorRT parses; None if that is not known."""
        return max_opset(self.tensorrt)

    def includes(self, release: str) -> bool:
        """Whether ``release``, such as ``6.2.1``, is one of these releases."""
        first, version, last = map(parse_version, (self.first, release, self.last))
        return first <= version and (self.includes_later or version <= last)

    def ships(self, tensorrt: str) -> bool:
        """Whether the releases ship ``tensorrt``, compared in the parts that both versions have."""
        wanted, has = parse_version(tensorrt), parse_version(self.tensorrt)
        if self.includes_later and wanted[0] == has[0]:
            return wanted >= has[: len(wanted)]
        return all(a == b for a, b in zip(wanted, has, strict=False))


_PAGE = 'docs/hardware.md, "JetPack releases"'
_MANIFESTS = f"NVIDIA's package manifests in meta-tegra and jetpack-nixos, {_PAGE}"
_SDK = "developer.nvidia.com/embedded/jetpack-sdk-"

JETPACKS = (
    JetPack(
        first="4.6", last="4.6", l4t="32.6.1", tensorrt="8.0.1", cuda="10.2", cudnn="8.2.1",
        ubuntu="18.04", python="3.6", devices=(*NANO, *TX2, *XAVIER), source=_MANIFESTS,
    ),
    JetPack(
        first="4.6.1", last="4.6.6", l4t="32.7.1 to 32.7.6", tensorrt="8.2.1", cuda="10.2.300",
        cudnn="8.2.1.32", ubuntu="18.04", python="3.6", devices=(*NANO, *TX2, *XAVIER),
        source=_MANIFESTS,
    ),
    JetPack(
        first="5.0.2", last="5.0.2", l4t="35.1.0", tensorrt="8.4.1", cuda="11.4", cudnn="8.4.1",
        ubuntu="20.04", python="3.8", devices=(*XAVIER, "agx-orin-32gb"), source=f"{_SDK}502",
    ),
    JetPack(
        first="5.1", last="5.1", l4t="35.2.1", tensorrt="8.5.2", cuda="11.4.19", cudnn="8.6.0.166",
        ubuntu="20.04", python="3.8", devices=(*XAVIER, "agx-orin-32gb", "orin-nx-16gb"),
        source=f"{_SDK}51",
    ),
    JetPack(
        first="5.1.1", last="5.1.6", l4t="35.3.1 to 35.6.4", tensorrt="8.5.2", cuda="11.4.19",
        cudnn="8.6.0.166", ubuntu="20.04", python="3.8", devices=(*XAVIER, *ORIN),
        source=f"{_SDK}511; {_MANIFESTS}",
    ),
    JetPack(
        first="6.0", last="6.0", l4t="36.3.0", tensorrt="8.6.2", cuda="12.2", cudnn="8.9",
        ubuntu="22.04", python="3.10", devices=ORIN, source=_MANIFESTS,
    ),
    JetPack(
        first="6.1", last="6.1", l4t="36.4.0", tensorrt="10.3.0.30", cuda="12.6",
        cudnn="9.3.0.75", ubuntu="22.04", python="3.10", devices=ORIN, source=_MANIFESTS,
    ),
    JetPack(
        first="6.2", last="6.2.2", l4t="36.4.3 to 36.5.0", tensorrt="10.3.0.30", cuda="12.6",
        cudnn="9.3.0.75", ubuntu="22.04", python="3.10", devices=(*ORIN, *SUPER),
        source=_MANIFESTS,
    ),
    JetPack(
        first="6.1", last="6.2.2", l4t="36.4.0 to 36.5.0", tensorrt="10.7.0.23", cuda="12.6",
        ubuntu="22.04", python="3.10", devices=(*ORIN, *SUPER), is_stock=False,
        source=f"NVIDIA's l4t aarch64 archive for CUDA 12.6, {_PAGE}",
    ),
    JetPack(
        first="7.0", last="7.0", l4t="38.2", tensorrt="10.13.3.9", cuda="13.0", cudnn="9.12.0",
        ubuntu="24.04", python="3.12", devices=(T5000,), source=_MANIFESTS,
    ),
    JetPack(
        first="7.1", last="7.1", l4t="38.4.0", tensorrt="10.13.3.9", cuda="13.0", cudnn="9.12.0",
        ubuntu="24.04", python="3.12", devices=(T5000, T4000), source=_MANIFESTS,
    ),
    JetPack(
        first="7.2", last="7.2.2", l4t="39.2.0", tensorrt="10.16.2.10", cuda="13.2.1",
        cudnn="9.20.0.46", ubuntu="24.04", python="3.12", devices=(*ORIN, *SUPER, T5000, T4000),
        source=_MANIFESTS,
    ),
    JetPack(
        first="7.2.2", last="7.2.2", l4t="", tensorrt="11.4.1", cuda="13", ubuntu="24.04",
        python="3.12", devices=(*AGX_ORIN, T5000, T4000), is_stock=False, includes_later=True,
        source=f"docs.nvidia.com/deeplearning/tensorrt/11.4.1, {_PAGE}",
    ),
)  # fmt: skip
"""Rows in the order of release; a TensorRT to install on top follows the release it is for."""

# (TensorRT version, highest opset that it and later versions parse), the newest version first.
_OPSETS: tuple[tuple[Version, int], ...] = (
    ((11,), 25),
    ((10, 13), 24),
    ((10, 9), 21),
    ((10,), 20),
    ((9, 3), 19),
    ((8, 4), 17),
    ((8, 2), 13),
)
OPSET_SOURCE = 'operators.md per branch of onnx/onnx-tensorrt, docs/tensorrt.md, "Opsets"'


def parse_version(version: str) -> Version:
    """``10.3.0`` as (10, 3, 0); such tuples compare as versions do.

    Raises:
        InputError: ``version`` is no version number.
    """
    parts = version.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"'{version}' is no version", hint="wanted numbers, such as 10.3 or 8.5.2")
    return tuple(map(int, parts))


def max_opset(tensorrt: str) -> int | None:
    """Highest ONNX opset that a version of TensorRT parses; None if that is not known."""
    version = parse_version(tensorrt)
    return next((opset for lowest, opset in _OPSETS if version >= lowest), None)


def releases_of(device: str) -> Iterator[JetPack]:
    """Every row that names the target ``device``, oldest first."""
    return (row for row in JETPACKS if device in row.devices)
