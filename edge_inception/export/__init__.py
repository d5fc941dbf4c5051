"""Export of a PyTorch model to ONNX, with preprocessing before the network and a head after it.

A module belongs here if it writes the first graph of a build; graph passes belong to ``graph``.
"""
