"""Applies a plan: parameter groups, scaled steps and gradients, LoRA; measures how much each block changed."""
