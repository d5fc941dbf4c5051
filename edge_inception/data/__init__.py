"""Image sets: which files, how they are decoded, and how pixels become a network's input.

What enters concerns images before any network sees them; numpy and Pillow only.
"""
