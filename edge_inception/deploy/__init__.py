"""A bundle onto devices over ssh: copied, proved there, then switched to at once.

``run`` is the door. ``remote`` alone knows paramiko, ``agent`` is what runs on the device for it.
What enters talks to another machine; what a bundle holds belongs to ``bundle``.
"""
