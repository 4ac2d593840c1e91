"""The model files there are, by all the names clients know them by."""
