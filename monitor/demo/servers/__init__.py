"""Programs for the environment of the inference servers, where demur is not installed: each runs as a script of its own."""
