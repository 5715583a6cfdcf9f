"""Data sets: where their files lie, what their numbers mean."""
