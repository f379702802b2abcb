"""The ground: what every room uses, and nothing of the mathematics."""
