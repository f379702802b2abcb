"""Training: any module, by any objective, with averages, checkpoints and several processes."""
