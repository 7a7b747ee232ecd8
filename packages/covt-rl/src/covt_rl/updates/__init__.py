"""The update of one step: the loss, its division into micro-batches, and what is skipped. May not import training."""
