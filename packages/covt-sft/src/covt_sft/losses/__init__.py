"""Losses of a stage, and the targets that stage 1 aligns to. May not import training."""
