"""Reward classes, one per file. Imports nothing of `registry`, `score`, `adapters` and `command_line`."""
