"""Extras: pictures of clients enlarged, without a checkpoint."""
