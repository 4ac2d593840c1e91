"""The loop that batches the calls of all running programs, and the process around it."""
