"""The sections of the page, each made from a run's files. Imports charts and `content`."""
