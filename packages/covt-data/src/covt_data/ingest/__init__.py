"""Turns the records of a source into a prepared set. May not import stream or inspect."""
