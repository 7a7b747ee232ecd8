"""New weights for running servers, through files or NCCL. May not import branches."""
