"""The job API: the same requests, answered at once with an id under which their results are asked for."""
