"""math-verify in worker processes that are killed at a time limit. Imports nothing of the other folders."""
