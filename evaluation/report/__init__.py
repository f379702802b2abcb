"""One page that shows what there is in a run's folder."""
