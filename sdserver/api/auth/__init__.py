"""Who may use the server: users, keys and sessions, and the middleware that asks for them."""
