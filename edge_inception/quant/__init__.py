"""Calibration and quantization: ranges of tensors, placement of Q/DQ pairs, the typed graph.

A module here decides or writes precision. It may execute graphs in OpenVINO to observe them, but
it compiles no engine: a module that needs engines belongs to ``search``.
"""
