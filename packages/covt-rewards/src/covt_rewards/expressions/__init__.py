"""Reading and comparing written answers without computer algebra. Imports nothing of the other folders."""
