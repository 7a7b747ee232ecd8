"""Judging models and showing results: evaluation, statistics and the report. Imports no training code."""
