"""Evaluation: how far samples are from data and from the exact trajectory, solvers side by side, and pictures."""

import logging

# Matplotlib tells of its cache of fonts when it runs for the first time.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
