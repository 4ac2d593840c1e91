"""Extras: pictures of clients enlarged and their faces restored, without a checkpoint."""
