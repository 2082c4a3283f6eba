"""Blocks: layers over a sequence."""
