"""Rewards inside other trainers: TRL, veRL, EasyR1. Imports none of the trainers, and nothing of `command_line`."""
