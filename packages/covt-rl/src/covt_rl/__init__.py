"""GRPO on latent rollouts from a vLLM server: scoring, algorithms and the training loop."""
