"""New weights for a running server, through files or NCCL. May not import branches."""
