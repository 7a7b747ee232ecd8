"""What a run folder holds, and the names, units and numbers that a reader sees."""
