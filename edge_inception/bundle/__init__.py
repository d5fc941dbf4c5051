"""The bundle, a folder for a device: graphs, a program, expected outputs, a manifest.

The code here packs a finished build. It measures nothing and does not run on the device.
"""
