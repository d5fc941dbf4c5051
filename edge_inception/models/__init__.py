"""Architectures: one file each, found by file name.

A file without a leading underscore ends in ``MODELS``, facts that need no torch and a builder that
imports it when called. What enters describes a network as its paper does.
"""
