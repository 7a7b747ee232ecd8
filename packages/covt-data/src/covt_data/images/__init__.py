"""Encoded images: checks, archives, size limits and similarity. May import only schema, data_errors and rejects."""
