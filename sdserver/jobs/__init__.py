"""Requests, events and results: frozen dataclasses on the standard library alone."""
