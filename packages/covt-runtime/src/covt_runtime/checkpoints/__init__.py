"""Sharded checkpoints, complete or absent. May import every other folder of the package."""
