"""What a bundle runs on the device: Python 3.6 syntax, standard library and numpy.

The files lie side by side in a bundle, where ``device.py`` is the program and nothing of
edge_inception can be imported; here they are a package, so that the host shares and tests them.
Only ``edge_inception.data.pixels`` needs Pillow, and only to read image files.
"""
