"""The Jetson modules as targets; sources are in docs/hardware.md, "Jetson modules"."""

from __future__ import annotations

from dataclasses import replace

from edge_inception.hardware.target import Dla, Fact, Target

_ORIN_NANO = "NVIDIA datasheet DS-11105-001"
_ORIN_NX = "NVIDIA datasheet DS-10712-001 v1.0"
_AGX_ORIN = "NVIDIA datasheet DS-10662-001 v1.6"
_FACTS = 'docs/hardware.md, "Jetson modules"'
_SM = "compute capability: developer.nvidia.com/cuda-gpus"
_HALF = "half of the sparse figure"
_CORES = "tensor cores x FMA x 2 x clock"
_T5000 = "quotes of the T5000 datasheet"


def _of_datasheet(value: float, source: str) -> Fact:
    return Fact(value, "V", source)


def _halved(value: float, source: str) -> Fact:
    return Fact(value, "I", f"{_HALF}: {source}")


def _recalled(value: float) -> Fact:
    """A figure from memory, which no source has confirmed."""
    return Fact(value, "R", _FACTS)


def _module(name: str, title: str, *, sm: str, memory_gb: int, source: str) -> Target:
    return Target(
        name=name,
        title=f"Jetson {title}: compiled on the device by the TensorRT of its JetPack",
        backend="tensorrt",
        is_compiled_here=False,
        sources=(source, _SM),
        compute_capabilities=(sm,),
        memory_gb=memory_gb,
    )


_NO_NANO_INT8 = f"no fast INT8 at SM 5.3, {_FACTS}"
_NO_TX2_INT8 = f"SM 6.2 is not in TensorRT's list of fast INT8, {_FACTS}, recalled"

_NANO_AND_TX2 = (
    replace(
        _module("nano-4gb", "Nano 4 GB", sm="5.3", memory_gb=4, source=_FACTS),
        bandwidth_gb_s=_recalled(25.6),
        fp16_tflops=_recalled(0.472),
        slow={"int8": _NO_NANO_INT8},
        headline="0.5 TFLOPS FP16",
        power_modes="0 MAXN (10 W), 1 5W",
    ),
    replace(
        _module("tx2-8gb", "TX2 8 GB", sm="6.2", memory_gb=8, source=_FACTS),
        bandwidth_gb_s=_recalled(59.7),
        fp16_tflops=_recalled(1.33),
        slow={"int8": _NO_TX2_INT8},
        headline="1.33 TFLOPS FP16",
        power_modes="0 MAXN, 1 MAXQ, 2 MAXP_CORE_ALL, 3 MAXP_ARM, 4 MAXP_DENVER",
    ),
)

_XAVIER_NX = replace(
    _module("xavier-nx", "Xavier NX", sm="7.2", memory_gb=8, source=_FACTS),
    bandwidth_gb_s=_recalled(59.7),
    int8_tops=_recalled(12.3),
    fp16_tflops=_recalled(6.0),
    module_int8_tops=Fact(21, "V", f"NVIDIA's 21 TOPS of the module, {_FACTS}"),
    dla=Dla(num_cores=2, generation="NVDLA 1.0", int8_tops=_recalled(4.5)),
    headline="21 TOPS INT8, dense",
    power_modes="no MAXN; MODE_15W and MODE_20W by number of CPU cores",
    notes=("Older documents give 51.2 GB/s.", "JetPack 5 is its last."),
)
_AGX_XAVIER = replace(
    _module("agx-xavier", "AGX Xavier", sm="7.2", memory_gb=32, source=_FACTS),
    bandwidth_gb_s=_recalled(136.5),
    int8_tops=Fact(22.6, "I", f"{_CORES}: 64 x 128 x 2 x 1.377 GHz"),
    fp16_tflops=Fact(11.3, "I", "half of INT8"),
    module_int8_tops=Fact(32, "V", f"NVIDIA's 32 TOPS of the module, {_FACTS}"),
    dla=Dla(num_cores=2, generation="NVDLA 1.0", int8_tops=_recalled(5.0)),
    headline="32 TOPS INT8, dense",
    notes=("JetPack 5 is its last.",),
)
_XAVIERS = tuple(
    replace(
        module,
        name=f"{module.name}-{size}gb",
        title=module.title.replace(":", f" {size} GB:"),
        memory_gb=size,
    )
    for module, sizes in ((_XAVIER_NX, (8, 16)), (_AGX_XAVIER, (16, 32, 64)))
    for size in sizes
)

_NO_FP8 = "Orin runs neither FP8 nor FP4 (TensorRT-Edge-LLM support matrix)."
_ISSUE_39 = "jetson_benchmarks issue 39: batch 32 of its networks could not be built on 4 GB."
_NANO_4 = replace(
    _module("orin-nano-4gb", "Orin Nano 4 GB", sm="8.7", memory_gb=4, source=_ORIN_NANO),
    bandwidth_gb_s=_of_datasheet(34, _ORIN_NANO),
    int8_tops=_of_datasheet(10, _ORIN_NANO),
    fp16_tflops=_of_datasheet(5, _ORIN_NANO),
    headline="20 TOPS INT8, sparse",
    power_modes="0 10W, 1 7W_AI, 2 7W_CPU",
    notes=(_NO_FP8, _ISSUE_39),
)
_NANO_8 = replace(
    _module("orin-nano-8gb", "Orin Nano 8 GB", sm="8.7", memory_gb=8, source=_ORIN_NANO),
    bandwidth_gb_s=_of_datasheet(68, _ORIN_NANO),
    int8_tops=_of_datasheet(20, _ORIN_NANO),
    fp16_tflops=_of_datasheet(10, _ORIN_NANO),
    headline="40 TOPS INT8, sparse",
    power_modes="0 15W (default), 1 7W",
    notes=(_NO_FP8,),
)
_ORIN_NANOS = (
    _NANO_4,
    replace(
        _NANO_4,
        name="orin-nano-4gb-super",
        title=_NANO_4.title.replace("4 GB", "4 GB Super"),
        bandwidth_gb_s=_recalled(51),
        int8_tops=_halved(17, "34 TOPS headline"),
        fp16_tflops=Fact(8.5, "I", "half of INT8"),
        headline="34 TOPS INT8, sparse",
        power_modes="",
    ),
    _NANO_8,
    replace(
        _NANO_8,
        name="orin-nano-8gb-super",
        title=_NANO_8.title.replace("8 GB", "8 GB Super"),
        bandwidth_gb_s=_of_datasheet(102, _ORIN_NANO),
        int8_tops=_halved(33.5, "67 TOPS headline"),
        fp16_tflops=Fact(17, "I", "about half of INT8"),
        headline="67 TOPS INT8, sparse",
        power_modes="0 15W, 1 25W (default), 2 MAXN_SUPER",
    ),
)
_SUPER_NX = "the split between GPU and DLA at MAXN_SUPER is not known, these figures are without it"
_DLA_INT8 = "On Orin's DLA use INT8: it trades FP16 for it (NVIDIA's Deep-Learning-Accelerator-SW)."
_ORIN_NXS = (
    replace(
        _module("orin-nx-8gb", "Orin NX 8 GB", sm="8.7", memory_gb=8, source=_ORIN_NX),
        bandwidth_gb_s=_of_datasheet(102, _ORIN_NX),
        int8_tops=_halved(25, f"70 TOPS headline less DLA, {_ORIN_NX}"),
        fp16_tflops=Fact(12.5, "I", "half of INT8"),
        module_int8_tops=_halved(35, "70 TOPS headline"),
        dla=Dla(num_cores=1, generation="DLA 2.0", int8_tops=_of_datasheet(10, _ORIN_NX)),
        headline="70 TOPS INT8, sparse",
        power_modes="0 MAXN, 1 10W, 2 15W (default), 3 20W",
        notes=(_NO_FP8, f"Super is 117 TOPS sparse; {_SUPER_NX}.", _DLA_INT8),
    ),
    replace(
        _module("orin-nx-16gb", "Orin NX 16 GB", sm="8.7", memory_gb=16, source=_ORIN_NX),
        bandwidth_gb_s=_of_datasheet(102, _ORIN_NX),
        int8_tops=_halved(30, f"100 TOPS headline less DLA, {_ORIN_NX}"),
        fp16_tflops=Fact(15, "I", "half of INT8"),
        module_int8_tops=_halved(50, "100 TOPS headline"),
        dla=Dla(num_cores=2, generation="DLA 2.0", int8_tops=_of_datasheet(10, _ORIN_NX)),
        headline="100 TOPS INT8, sparse",
        power_modes="0 MAXN, 1 10W, 2 15W (default), 3 25W",
        notes=(_NO_FP8, f"Super is 157 TOPS sparse; {_SUPER_NX}.", _DLA_INT8),
    ),
)
_BY_MODE = (
    "Sparse TOPS of GPU and DLA by mode: MAXN 171 and 105, 50W 109 and 92, 30W 41 and 90, 15W 14 "
    "and 40 (NVIDIA's Deep-Learning-Accelerator-SW)."
)
_AGX_ORINS = (
    replace(
        _module("agx-orin-32gb", "AGX Orin 32 GB", sm="8.7", memory_gb=32, source=_AGX_ORIN),
        bandwidth_gb_s=_of_datasheet(204.8, _AGX_ORIN),
        int8_tops=_of_datasheet(54, _AGX_ORIN),
        fp16_tflops=_of_datasheet(27, _AGX_ORIN),
        module_int8_tops=_halved(100, "200 TOPS headline"),
        dla=Dla(num_cores=2, generation="DLA 2.0", int8_tops=_of_datasheet(23, _AGX_ORIN)),
        headline="200 TOPS INT8, sparse",
        power_modes="0 MAXN, 1 15W, 2 30W (default), 3 40W; MAXN_SUPER from L4T R39",
        notes=(_NO_FP8, "Its datasheet gives its DLA as 92 and as 98 sparse TOPS.", _DLA_INT8),
    ),
    replace(
        _module("agx-orin-64gb", "AGX Orin 64 GB", sm="8.7", memory_gb=64, source=_AGX_ORIN),
        bandwidth_gb_s=_of_datasheet(204.8, _AGX_ORIN),
        int8_tops=_of_datasheet(85, _AGX_ORIN),
        fp16_tflops=_of_datasheet(42.5, _AGX_ORIN),
        module_int8_tops=_halved(137.5, "275 TOPS headline"),
        dla=Dla(num_cores=2, generation="DLA 2.0", int8_tops=_of_datasheet(26.25, _AGX_ORIN)),
        headline="275 TOPS INT8, sparse",
        power_modes="0 MAXN, 1 15W, 2 30W (default), 3 50W",
        notes=(_NO_FP8, _BY_MODE, _DLA_INT8),
    ),
)
_SM_OF_THOR = "Before CUDA 13 its compute capability was reported as 10.1."
_THORS = (
    replace(
        _module("thor-t5000", "AGX Thor (T5000)", sm="11.0", memory_gb=128, source=_FACTS),
        bandwidth_gb_s=Fact(273, "S", _T5000),
        int8_tops=Fact(516, "I", "20 SM x 8192 FMA x 2 x 1.575 GHz, if INT8 is as fast as FP8"),
        fp16_tflops=Fact(258, "S", _T5000),
        fp8_tflops=Fact(517, "S", _T5000),
        headline="2070 TFLOPS FP4, sparse",
        power_modes="0 MAXN, 1 120W",
        notes=(_SM_OF_THOR, "NVIDIA gives no INT8 figure."),
    ),
    replace(
        _module("thor-t4000", "Thor T4000", sm="11.0", memory_gb=64, source=_FACTS),
        bandwidth_gb_s=Fact(273, "S", _FACTS),
        headline="1200 TFLOPS FP4, sparse",
        notes=(_SM_OF_THOR,),
    ),
)


MODULES = (*_NANO_AND_TX2, *_XAVIERS, *_ORIN_NANOS, *_ORIN_NXS, *_AGX_ORINS, *_THORS)
