"""Calibration and quantization of graphs."""
