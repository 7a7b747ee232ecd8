"""Metrics, throughput and progress. Imports no engine."""
