"""Intervals for accuracies and their differences. Imports nothing of ours."""
