"""Starts, watches and ends vLLM servers with latents. May not import client, weights or branches."""
