"""Networks that find faces, tell their parts and restore them."""
