"""Where examples come from: one kind of file, or embedded dataset, a module."""
