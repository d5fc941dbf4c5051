"""ONNX in, ONNX out: simplification and checks."""
