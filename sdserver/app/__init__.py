"""The composition root: the only place that reads the settings and knows every other part."""
