"""Rows of prepared sets for training: lazy, shuffled, mixed, resumable. May not import sources, ingest or inspect."""
