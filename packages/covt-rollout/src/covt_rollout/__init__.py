"""Rollouts from an unmodified vLLM over HTTP: server, client, weight updates, branches and the plugin."""
