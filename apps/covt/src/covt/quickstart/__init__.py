"""The whole job in small, on real components: what `covt quickstart` runs."""
