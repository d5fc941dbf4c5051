"""Architectures: one file each, found by file name.

A file without a leading underscore ends in ``MODELS``: records with facts that need no torch, and
a builder that imports torch when called. Each file describes a network as its paper does.
"""
