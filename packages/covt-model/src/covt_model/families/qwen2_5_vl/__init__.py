"""Qwen2.5-VL: image patches, M-RoPE positions, published sizes and a tiny model. Imports no folder but decoder."""
