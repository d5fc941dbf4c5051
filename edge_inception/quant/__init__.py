"""Calibration and quantization: ranges of tensors, placement of Q/DQ pairs, the typed graph.

A module here decides or writes precision. It executes graphs to observe them, and compiles none
for use: a module that needs engines belongs to ``search``.
"""
