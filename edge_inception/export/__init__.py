"""A PyTorch model to ONNX, with what is put before and behind the network.

What enters writes the first graph of a build; passes over graphs belong to ``graph``.
"""
