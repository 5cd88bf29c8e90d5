"""One dataset a file; a source is found by its file name (see `_source.py`)."""
