"""FP32 outputs that every engine is judged by, computed by PyTorch or by onnxruntime.

A module belongs here if it computes or stores those outputs. None of them compiles an engine.
"""
