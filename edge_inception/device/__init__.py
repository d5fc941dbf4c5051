"""The program that a bundle runs on a device: Python 3.6 syntax, standard library and numpy.

In a bundle these files lie side by side, ``device.py`` is the program, and nothing of
edge_inception can be imported; here they are a package, so that the host shares and tests them.
Only ``edge_inception.data.pixels`` needs Pillow, and only to read image files.
"""
