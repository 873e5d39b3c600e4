"""Fine-tuning by LoRA: batches, the adapted tower, the loop, and finished runs on disk."""
