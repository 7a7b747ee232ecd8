"""Stage 1's alignment targets: selection, the momentum teacher and the targets of a batch.

May not import checkpoints."""
