"""A loaded checkpoint and what it can run. The only room that knows the model libraries."""
