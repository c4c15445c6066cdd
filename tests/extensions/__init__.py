"""One dummy of each kind of thing that the project grows by. Each is one file, which registers what it defines when it
is imported, and nothing else in the project knows of it. `tests/test_extensions.py` runs them from end to end."""
