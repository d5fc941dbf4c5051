"""A checkpoint file to a state dict that fits one of our models.

What enters reads, unwraps, recognises or renames published weights. No weight is ever invented.
"""
