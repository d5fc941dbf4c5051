"""Details of small artifacts for tests: what is not named is of a tiny network."""

from __future__ import annotations

from typing import Any

from edge_inception import artifact, sidecar
from edge_inception.spec import Precision, Preprocess, ShapeProfile

SIDE = 8
_GRAPH = {
    "model": "tiny",
    "num_classes": 5,
    "classes": (),
    "checkpoint_notes": (),
    "preprocess": Preprocess(input_size=(SIDE, SIDE)),
    "model_options": {},
    "profile": ShapeProfile(),
    "head_text": "logits",
    "input": "input",
    "output": "logits",
    "input_shape": (1, 3, SIDE, SIDE),
    "opset": 18,
}
_SIMPLIFIED = {**_GRAPH, "nodes_before": {}, "simplify_difference": 0.0}
_TYPED = {
    **_SIMPLIFIED,
    "precision": Precision.INT8,
    "typing": "strong",
    "float_rest": "fp32",
    "output_shape": (1, 5),
}
_ENGINE = {
    **_TYPED,
    "backend": "openvino",
    "tied_to": {},
    "float_precision": "f32",
    "batch": ShapeProfile(),
}
_PLAN = {
    **_ENGINE,
    "backend": "tensorrt_rtx",
    "layers": {},
    "precisions": {},
    "int8_layers": 0,
    "convolutions": {},
    "float_kernels": 0,
    "reformat_layers": 0,
    "num_kernels": 0,
    "activation_bytes": 0,
    "dla_islands": 0,
    "weight_bytes": {},
    "total_weight_bytes": 0,
    "padding_bytes": 0,
    "layers_from": "",
    "weights_memory_bytes": None,
    "compute_capabilities": "library default",
    "dla_core": None,
    "version_compatible": False,
    "hardware_compatible": "",
    "strip_weights": False,
    "graph": "typed.onnx",
    "equivalent_command": "",
    "fallbacks": (),
    "warnings": (),
}
_BLOB = {
    **_ENGINE,
    "executed_layers": {},
    "kernels": {},
    "weighted_layers": 0,
    "int8_layers": 0,
    "unsigned_activations": 0,
    "split_activations": 0,
    "float_activations": 0,
}

_BASELINE = {
    **{name: _GRAPH[name] for name in ("model", "num_classes", "classes")},
    "set": "photos",
}
_BASELINE["preprocess"] = _GRAPH["preprocess"]


def graph(**changes: Any) -> sidecar.GraphDetails:
    return sidecar.GraphDetails(**_GRAPH | changes)


def simplified(**changes: Any) -> sidecar.SimplifiedDetails:
    return sidecar.SimplifiedDetails(**_SIMPLIFIED | changes)


def typed(**changes: Any) -> sidecar.TypedDetails:
    return sidecar.TypedDetails(**_TYPED | changes)


def engine(**changes: Any) -> sidecar.EngineDetails:
    """Of a backend that tells nothing more."""
    return sidecar.EngineDetails(**_ENGINE | {"backend": "onnxruntime"} | changes)


def blob(**changes: Any) -> sidecar.BlobDetails:
    return sidecar.BlobDetails(**_BLOB | changes)


def plan(**changes: Any) -> sidecar.PlanDetails:
    return sidecar.PlanDetails(**_PLAN | changes)


def baseline(**changes: Any) -> sidecar.BaselineDetails:
    return sidecar.BaselineDetails(**_BASELINE | changes)


def of(kind: type[artifact.Artifact]) -> sidecar.Details:
    """Details of any kind, for tests to which they are all the same."""
    made = {
        artifact.Graph: graph,
        artifact.SimplifiedGraph: simplified,
        artifact.TypedGraph: typed,
        artifact.EngineFile: engine,
        artifact.RangeTable: sidecar.RangeTableDetails,
        artifact.Baseline: baseline,
        artifact.SearchResult: lambda: sidecar.SearchDetails(keep=(), is_met=True),
        artifact.Report: lambda: sidecar.ReportDetails(status="PASSED"),
        artifact.CalibrationCache: lambda: sidecar.CacheDetails(
            tensorrt="8.5.2", header="TRT-8502-EntropyCalibration2", unscaled=()
        ),
    }
    return made[kind]()
