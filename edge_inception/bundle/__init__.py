"""The folder that ships to a device: graphs, a device program, expected answers, a signed manifest.

What enters packs a finished build. Nothing here measures, and nothing runs on the device.
"""
