"""Prepared sets on disk: Parquet shards with their images, and the manifest. May import only images and tasks."""
