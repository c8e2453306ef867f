"""Servers that stand in for a forge and an engine in the demo and in tests; never used in production."""
