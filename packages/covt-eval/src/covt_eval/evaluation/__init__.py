"""Accuracy of served models, with their latents kept or ablated. Imports statistics, but not the report."""
