"""Latent positions: the feedback rule, its heads, the latent forward and its oracle.

May not import generation or checkpoints."""
