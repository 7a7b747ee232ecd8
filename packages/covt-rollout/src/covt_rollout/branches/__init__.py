"""Continuations of completions from the end of a latent span. May import every other folder of the package."""
