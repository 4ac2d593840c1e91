"""From the wire to jobs: a request with its defaults, options and overrides becomes resolved jobs.

With `api.answer`, which goes the other way, the only package that knows both.
"""
