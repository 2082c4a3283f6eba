"""Losses beside the objective's; those that belong to one item net stand with it."""
