"""What a training is about to do, checked before any process starts. May not import batches, losses or training."""
