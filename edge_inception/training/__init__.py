"""Training, evaluation while training, and quantization-aware training in PyTorch.

What enters changes weights. Nothing to the right of a checkpoint is needed to deploy.
"""
