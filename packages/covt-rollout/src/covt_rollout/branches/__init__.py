"""Continuations of a completion from the end of a latent span. The top of the package's own order."""
