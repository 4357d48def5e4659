"""Phantoms: procedural chest CTs of every dataset, in its own raw layout, for who has no data."""
