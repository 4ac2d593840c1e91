"""Saved pictures sent to an object store, in the background."""
