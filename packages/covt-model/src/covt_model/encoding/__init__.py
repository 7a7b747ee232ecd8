"""Rows to token ids, positions and image features. May not import latents, targets, generation or checkpoints."""
