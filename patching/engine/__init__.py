"""Activation patching: which patches a sweep runs, and nnsight doing each replacement.

Read in this order: alignment, batching, groups, engine; then direct effects, gradients and attention patterns.
"""
