"""The `covt` command: parses, loads a recipe and calls one function of a package. Nothing imports this package."""
