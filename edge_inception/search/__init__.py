"""Which groups of layers stay float so that an int8 graph meets its budget.

What enters scores quantized candidates by executing them, so this room may use ``engines``.
"""
