"""What a model's latents stand for, read from the latents themselves. Imports evaluation and no report."""
