"""What answers a request: feature lookup, engine, FastAPI app."""
