"""Training, evaluation while training, and quantization-aware training in PyTorch.

A module belongs here if it changes weights, or measures a model between epochs. Deployment needs
none of them.
"""
