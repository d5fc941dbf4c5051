"""Image sets: their files, the decoding of images, and preprocessing to a network's input.

A module belongs here if it handles images before a network sees them, with numpy and Pillow only.
"""
