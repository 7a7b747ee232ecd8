"""Rows of a prepared set as micro-batches. May not import losses or training."""
