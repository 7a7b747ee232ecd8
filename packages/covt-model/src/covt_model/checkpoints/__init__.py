"""Reading and writing Hugging Face folders, LoRA adapters and model cards."""
