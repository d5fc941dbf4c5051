"""The command ``compile``: a typed graph to an engine, with the flag names of trtexec."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import (
    PATH,
    open_terminal,
    out_option,
    print_artifact,
    terminal_options,
)
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.artifact import TypedGraph
    from edge_inception.engines._backend import CompileOptions
    from edge_inception.hardware.target import Target

_TENSORRT = "TensorRT: "


@click.command(name="compile")
@click.argument("graph", type=PATH)
@click.option("--target", default="cpu", show_default=True, help="Target to compile for.")
@click.option("--compute-capability", multiple=True, help="For rtx, such as 8.9; repeatable.")
@click.option("--float-precision", default="f32", show_default=True, help="On a CPU: f32 or bf16.")
@click.option("--workspace", type=click.IntRange(min=0), help="Limit of the workspace in MiB.")
@click.option(
    "--mem-pool-size",
    "--memPoolSize",
    multiple=True,
    metavar="POOL:MIB",
    help=_TENSORRT + "size of a memory pool, such as workspace:512 or dlaSRAM:1; repeatable.",
)
@click.option(
    "--builder-optimization-level",
    "--builderOptimizationLevel",
    type=click.IntRange(0, 5),
    help=_TENSORRT + "a higher level compiles longer, and the engine may run faster.",
)
@click.option(
    "--timing-cache-file",
    "--timingCacheFile",
    "timing_cache",
    type=PATH,
    help=_TENSORRT + "file of kernel timings, which is read and updated; builds may share it.",
)
@click.option(
    "--calibration-cache",
    "--calib",
    type=PATH,
    help=_TENSORRT + "the .cache file that quantize --typing implicit wrote.",
)
@click.option(
    "--use-dla-core",
    "--useDLACore",
    "dla_core",
    type=click.IntRange(min=0),
    help=_TENSORRT + "number of the DLA, a deep-learning accelerator, to compile for.",
)
@click.option(
    "--allow-gpu-fallback",
    "--allowGPUFallback",
    is_flag=True,
    help=_TENSORRT + "run layers that the DLA cannot take on the GPU.",
)
@click.option(
    "--version-compatible",
    "--versionCompatible",
    is_flag=True,
    help=_TENSORRT + "make an engine, with code inside, that later versions also load.",
)
@click.option(
    "--hardware-compatibility-level",
    "--hardwareCompatibilityLevel",
    "hardware_compatibility",
    default="",
    metavar="LEVEL",
    help=_TENSORRT + "GPUs that can load the engine: ampere+ or sameComputeCapability.",
)
@click.option(
    "--strip-weights",
    "--stripWeights",
    is_flag=True,
    help=_TENSORRT + "leave the weights out.",
)
@click.option("--refit", is_flag=True, help=_TENSORRT + "let the weights be replaced later.")
@click.option("--sparsity", is_flag=True, help=_TENSORRT + "use kernels for 2:4 sparse weights.")
@out_option
@terminal_options
def compile_graph(
    graph: Path,
    target: str,
    out: Path,
    *,
    compute_capability: tuple[str, ...],
    workspace: int | None,
    mem_pool_size: tuple[str, ...],
    **flags: Any,
) -> None:
    """Compile a typed graph to an engine."""
    from edge_inception import artifact
    from edge_inception.artifact import TypedGraph
    from edge_inception.engines import _registry as backends
    from edge_inception.engines._backend import TENSORRT_OPTIONS
    from edge_inception.hardware import targets
    from edge_inception.sidecar import PlanDetails

    with open_terminal(flags) as terminal:
        typed = artifact.load(TypedGraph, graph)
        hardware = targets.target(target)
        _require_compilable(hardware)
        options = dataclasses.replace(
            _options(typed, hardware, compute_capability),
            workspace_mib=workspace,
            memory_pools=dict(_parse_pool(text) for text in mem_pool_size),
            **{name: flags[name] for name in ("float_precision", *TENSORRT_OPTIONS)},
        )
        _require_feasible(hardware, typed, options)
        backend = backends.backend(hardware.backend)
        with terminal.working("compile") as progress:
            engine = backend.compile(typed, options, out, progress=progress)
        if isinstance(engine.details, PlanDetails):
            for line in engine.details.fallbacks:
                terminal.note(f"warning: {line}")
            terminal.detail(f"the same with trtexec: {engine.details.equivalent_command}")
        print_artifact(terminal, engine)


def _require_compilable(hardware: Target) -> None:
    """Refuse a target that compiles only for itself, unless this machine has the target's GPU."""
    from edge_inception.engines import _cuda
    from edge_inception.hardware import targets

    if _cuda.compute_capability() not in hardware.compute_capabilities:
        targets.require_compilable(hardware)


def _require_feasible(hardware: Target, typed: TypedGraph, options: CompileOptions) -> None:
    """Refuse options that the target or its TensorRT does not support."""
    from edge_inception.engines import tensorrt
    from edge_inception.hardware import feasibility

    if hardware.backend != tensorrt.BACKEND.name:
        return
    if options.hardware_compatibility and hardware.is_jetson:
        raise InputError(
            f"--hardware-compatibility-level is for GPUs on cards, '{hardware.name}' is a Jetson",
            hint="leave it out: each device compiles its own engine",
        )
    request = feasibility.Request(
        precision=typed.details.precision,
        typing=typed.details.typing,
        tensorrt=tensorrt.BACKEND.availability().version or None,
        dla=options.dla_core is not None,
        batch=options.profile.max,
        is_dynamic=options.profile.is_dynamic,
        opset=typed.details.opset,
        element=typed.details.preprocess.element,
    )
    feasibility.require(hardware, request)


def _options(typed: TypedGraph, hardware: Target, chosen: tuple[str, ...]) -> CompileOptions:
    from edge_inception.engines._backend import CompileOptions
    from edge_inception.hardware import targets

    capabilities = targets.compute_capabilities(hardware, chosen)
    if chosen and chosen != capabilities:
        raise InputError(
            f"--compute-capability is {', '.join(chosen)}, '{hardware.name}' leaves no choice",
            hint="leave it out, or choose --target rtx",
        )
    return CompileOptions(profile=typed.details.profile, compute_capabilities=capabilities)


def _parse_pool(text: str) -> tuple[str, float]:
    """Name and size in MiB of a memory pool: ``dlaSRAM:1`` becomes ("dlaSRAM", 1.0)."""
    name, _, size = text.partition(":")
    try:
        mib = float(size)
    except ValueError:
        mib = -1.0
    if mib < 0:
        raise InputError(
            f"--mem-pool-size is '{text}', wanted POOL:MIB", hint="for example: workspace:512"
        )
    return name, mib
