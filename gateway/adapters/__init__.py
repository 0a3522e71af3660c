"""One outside system in each module, behind a port of the runtime."""
