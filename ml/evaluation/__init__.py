"""One honest evaluation for every recommender: splits, metrics, slices, significance, gates."""
