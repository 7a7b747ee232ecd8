"""Rows of prepared sets for training: lazy, shuffled, mixed, resumable. Imports the store, but no source."""
