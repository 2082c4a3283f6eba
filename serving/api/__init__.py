"""The HTTP face of the engine: models, routes, and what stands around them."""
