"""A TOML recipe to frozen records, with every unknown key and wrong type named.

What enters reads or describes recipes; nothing is opened or computed.
"""
