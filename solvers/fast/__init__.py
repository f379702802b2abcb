"""Solvers with tables of coefficients: one network call a step or few, exact where the equation is linear."""
