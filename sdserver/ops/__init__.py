"""The maintenance port, metrics, downloads."""
