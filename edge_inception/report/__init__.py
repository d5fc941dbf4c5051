"""Records of validation, latency and calibration as something people read.

What enters turns records into a terminal's table, Markdown, CSV or one HTML page. It measures and
judges nothing.
"""
