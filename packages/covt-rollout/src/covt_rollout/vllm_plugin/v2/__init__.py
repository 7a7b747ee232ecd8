"""Latents on vLLM's V2 model runner: on the device, in stream order."""
