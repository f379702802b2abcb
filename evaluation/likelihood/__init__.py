"""Likelihoods of examples: bits/dim, their errors, and bounds."""
