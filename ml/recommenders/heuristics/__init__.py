"""Recommenders that count and learn nothing: the bar for every other one."""
