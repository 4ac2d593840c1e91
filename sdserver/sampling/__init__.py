"""Sigmas, samplers, noise, guidance: the arithmetic of denoising one image."""
