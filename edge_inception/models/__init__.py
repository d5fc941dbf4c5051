"""Architectures: one file each, found by file name.

A file without a leading underscore defines ``MODELS``, records whose facts need no torch and whose
builder imports torch when it is called. Each file describes a network as its paper does.
"""
