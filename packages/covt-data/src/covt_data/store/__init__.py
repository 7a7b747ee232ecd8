"""Prepared sets on disk: Parquet shards with their images, and the manifest. Imports no source and no ingestion."""
