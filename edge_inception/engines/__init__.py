"""Engine backends: one file each, found by file name."""
