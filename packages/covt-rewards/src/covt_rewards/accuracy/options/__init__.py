"""Which options of a multiple-choice question an answer names. Imports nothing of the graders."""
