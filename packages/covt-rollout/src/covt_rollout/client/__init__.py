"""Prompts in, completions out, over HTTP. May not import weights or branches; needs no vLLM."""
