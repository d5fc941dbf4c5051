"""The folder that ships to a device: graphs, a device program, expected answers, a signed manifest.

The code here packs a finished build. It measures nothing, and does not run on the device.
"""
