"""Checkpoints from the network: fetched once, resumed, checked, and found again without a network."""
