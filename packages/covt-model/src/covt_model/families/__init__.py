"""One folder for each model family, behind a registry. Outside a family's folder, no file names a family."""
