"""Item nets: what an item is to a sequential recommender."""
