"""Turning a source's records into a prepared set. Uses sources and the store; nothing but `inspect` may import it."""
