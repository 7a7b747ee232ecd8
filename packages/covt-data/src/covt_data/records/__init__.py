"""Typed reading of raw records: fields, options, images, gold answers. Of this package, only schema and rejects."""
