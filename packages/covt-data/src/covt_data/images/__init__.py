"""Encoded images: checks, archives, size limits and likeness. Knows rows, but no source, store or stream."""
