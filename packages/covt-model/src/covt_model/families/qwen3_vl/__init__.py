"""Qwen3-VL: image settings, vision features with DeepStack, published sizes and a tiny model. Imports only decoder."""
