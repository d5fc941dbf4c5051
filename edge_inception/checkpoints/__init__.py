"""Conversion of a checkpoint file into a state dict that fits one of our models.

The code here reads, unwraps, recognises and renames published weights. It invents none, but for
batch-norm factors of 1 where a publisher stores none.
"""
