"""A Triton backend for tests without a GPU: vLLM's kernels run in Triton's interpreter, so nothing is ever compiled."""
