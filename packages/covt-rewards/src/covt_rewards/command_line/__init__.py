"""The `covt-rewards` command: score, list, explain. Nothing else in the package imports it."""
