"""Losses beside the objective's."""
