"""The readable model: one transformer with named hook points for every encoder, independent of the engine.

Read in this order: hooks, layers, block, tower, text_tower, image_tower, tokenizers; then how TransformerLens sees it.
"""
