"""Policy-gradient mathematics as pure tensor functions, one algorithm a file."""
