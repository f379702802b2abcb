"""Solvers with noise."""
