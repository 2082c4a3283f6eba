"""Objectives: what a sequential recommender is trained to tell, and how it is asked."""
