"""A plan put to use: parameter groups, scaled steps and gradients, LoRA; and what training then changed."""
