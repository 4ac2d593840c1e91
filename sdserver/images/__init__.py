"""Pixels on the host: encoding, infotext, grids, files."""
