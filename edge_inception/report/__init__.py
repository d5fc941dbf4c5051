"""One validation's JSON as something people read."""
