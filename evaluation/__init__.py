"""Evaluation: how far samples are from data and from the exact trajectory, solvers side by side, and pictures."""
