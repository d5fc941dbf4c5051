"""Work on float ONNX graphs: import from other exporters, simplification, checks, sizes, costs.

A module belongs here if it reads or rewrites a graph without torch. Precision is set in ``quant``.
"""
