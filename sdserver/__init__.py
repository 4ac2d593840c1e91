"""A self-contained Stable Diffusion server that speaks the HTTP API of AUTOMATIC1111."""
