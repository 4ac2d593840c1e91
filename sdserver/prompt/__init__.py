"""Prompts: emphasis, editing, composition, chunks of 75 tokens. Knows neither torch nor tokenizers."""
