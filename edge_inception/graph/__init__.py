"""ONNX in, ONNX out: import of foreign graphs, simplification, checks, sizes and costs.

A module here reads or rewrites a float graph. Precision belongs to ``quant``; torch stays outside.
"""
