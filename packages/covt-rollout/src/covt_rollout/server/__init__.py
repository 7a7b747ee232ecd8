"""Starting, watching and stopping the rollout server (vLLM, unmodified, in its own processes)."""
