"""From the engine's results back to the wire: pictures, `parameters`, `info`, and files on disk.

With `api.translate`, which goes the other way, the only package that knows wire and jobs.
"""
