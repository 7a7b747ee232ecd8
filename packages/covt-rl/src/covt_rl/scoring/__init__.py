"""Completions to rewards to advantages, group by group. May not import training."""
