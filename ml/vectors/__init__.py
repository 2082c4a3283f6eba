"""Items as vectors: what their text says, what their neighbours in histories say, and both together."""
