"""A configuration and its folder become objects: data, process, model, solver; and what is done with them."""
