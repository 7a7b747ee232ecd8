"""Decoding with latents in plain Transformers. May not import checkpoints or targets."""
