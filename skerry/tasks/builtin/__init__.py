"""The data sets of the built-in tasks, read from a folder that the user names. Nothing is ever downloaded."""
