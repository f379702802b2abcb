"""Solvers of the probability flow equation."""
