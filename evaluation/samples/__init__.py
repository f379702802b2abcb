"""Samples: drawing them, and how far they are from the data."""
