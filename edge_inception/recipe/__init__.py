"""Reader of TOML recipes, which names every unknown key and wrong type, and its records.

Code belongs here if it reads or describes recipes; the files that a recipe names are not opened.
"""
