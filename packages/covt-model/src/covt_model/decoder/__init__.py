"""The language model run layer by layer, with masks and caches of our own. Imports no other folder of the package."""
