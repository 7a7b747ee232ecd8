"""Worker processes and the group of ranks they form. Imports no engine and no checkpoint."""
