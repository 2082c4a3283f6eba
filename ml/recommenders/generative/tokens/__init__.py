"""How the items of a history are read."""
