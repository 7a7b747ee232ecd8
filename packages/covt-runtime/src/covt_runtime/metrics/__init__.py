"""Metrics, throughput and progress. May not import launch, engine or checkpoints."""
