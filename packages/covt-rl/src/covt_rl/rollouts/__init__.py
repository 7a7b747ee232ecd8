"""Collecting a step's completions and their continuations. Uses scoring; may not import planning or training."""
