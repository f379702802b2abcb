"""Log-densities: by the probability flow, and bounds."""
