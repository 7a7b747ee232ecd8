"""Worker processes and the group of ranks that they form. May not import engine or checkpoints."""
