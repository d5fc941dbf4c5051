"""Engine backends: one file each, found by file name.

A file without a leading underscore ends in ``BACKEND``, a record of plain functions that compile
and open engines of one library. What enters imports neither torch nor onnx: it runs on devices.
"""
