"""What is compared: caption and image pairs, their targets, and which of their tokens correspond."""
