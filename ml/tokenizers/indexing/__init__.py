"""Item IDs that come from no vector: the baselines of "How to Index Item IDs for Recommendation Foundation Models".

Hua et al. (SIGIR-AP 2023, arXiv:2305.06569), for P5: random, sequential, collaborative and category IDs;
hybrid ones are a `ml.tokenizers.composite` of these. Where several items share a path, the number within it is the
de-duplicating code that every semantic ID ends with.
"""
