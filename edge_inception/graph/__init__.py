"""ONNX in, ONNX out: import of foreign graphs, simplification, checks, sizes and costs.

What enters reads or rewrites a float graph. Precision belongs to ``quant``; torch stays outside.
"""
