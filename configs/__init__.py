"""Configurations: nothing but values. `default.py` names every key once."""
