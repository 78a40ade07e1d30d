"""Train: LoRA and CopRA side by side."""
