"""Pictures of examples, one file for each kind of data."""
