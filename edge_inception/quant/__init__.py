"""Calibration and quantization: ranges of tensors, placement of Q/DQ pairs, the typed graph.

What enters decides or writes precision. It executes graphs to observe them, and compiles none for
use: what needs engines belongs to ``search``.
"""
