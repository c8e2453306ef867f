"""One module per process; each parses, wires and loops."""
