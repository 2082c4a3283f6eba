"""Measurements against peers and limits; every number in the docs comes from a file below ``results``."""
