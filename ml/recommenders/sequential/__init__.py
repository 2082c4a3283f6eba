"""Recommenders that read a history as a sequence."""
