"""Phantom chest radiographs: seeded images, facts, captions and the miniature CLIP trained on them."""
