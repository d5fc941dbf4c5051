"""Graph passes, one per file: rewrites of an ONNX graph in place that keep its function."""
