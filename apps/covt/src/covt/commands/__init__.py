"""One module per sub-command; modules import packages only when their command runs."""
