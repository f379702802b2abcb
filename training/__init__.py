"""Training: steps of an optimiser on batches of a loss, and what a long run needs around them."""
