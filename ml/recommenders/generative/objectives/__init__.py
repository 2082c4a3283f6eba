"""What a generative recommender is trained to tell, and how items are found by it."""
