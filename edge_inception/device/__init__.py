"""The program that a bundle runs on a device: Python 3.6 syntax, standard library and numpy.

A bundle is the folder that ships to a device. In a bundle these files lie side by side with the
others that travel; ``device.py``, the program, makes that folder stand for the package, which is
not installed there. Only ``edge_inception.data.pixels`` needs Pillow, to read image files.
"""
