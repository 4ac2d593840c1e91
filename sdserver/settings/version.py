"""The release's number; pyproject.toml states the same (a test compares them)."""

VERSION = "0.1.0"
