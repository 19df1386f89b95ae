"""How an engine is handed to a server: a model repository, command lines. Nothing is loaded."""
