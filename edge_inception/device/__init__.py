"""The program that a bundle runs on a device: Python 3.6 syntax, standard library and numpy.

A bundle is the folder that ships to a device. In a bundle these files lie side by side,
``device.py`` is the program, and edge_inception cannot be imported; here they are a package, so
that the host can use and test them. Only ``edge_inception.data.pixels`` needs Pillow, and only to
read image files.
"""
