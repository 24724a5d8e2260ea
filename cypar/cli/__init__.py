"""The command line: `python -m cypar`."""
