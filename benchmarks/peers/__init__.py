"""One script a side of a comparison; each runs in an environment of its own and needs no package but that and numpy."""
