"""The routes, by topic. Each module has one function that makes its router."""
