"""Sharded training checkpoints, complete or absent. Imports the engine."""
