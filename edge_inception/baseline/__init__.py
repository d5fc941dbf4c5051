"""FP32 answers that every engine is judged by, recorded by PyTorch or by onnxruntime.

What enters computes or stores those answers. Nothing here compiles or compares.
"""
