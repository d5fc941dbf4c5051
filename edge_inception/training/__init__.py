"""Training, evaluation while training, and quantization-aware training in PyTorch.

A module belongs here if it changes weights or judges them meanwhile; deployment needs none of them.
"""
