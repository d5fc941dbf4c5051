"""Conversion of a checkpoint file into a state dict that fits one of our models.

The code here reads, unwraps, recognises or renames published weights. It never invents a weight.
"""
