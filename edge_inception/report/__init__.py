"""Records of validation, latency and calibration as terminal text, Markdown, CSV and HTML.

Code belongs here if it turns records into text or drawings; it neither measures nor judges.
"""
