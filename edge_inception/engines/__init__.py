"""Engine backends: each has one file, whose name is the backend's name.

A file without a leading underscore ends in ``BACKEND``, a record of plain functions that compile
and open engines of one library. No file here imports torch or onnx, since engines run on devices.
"""
