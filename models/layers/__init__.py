"""Layers of score networks, one concept a file."""
