"""The commands that ask the control API, a file for each topic."""
