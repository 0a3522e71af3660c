"""The Python client: the core's frames and signing over a socket."""
