"""One GRPO training: checks, start, the loop, the update and validation. The top of the package."""
