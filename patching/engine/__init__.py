"""Activation patching: which patches a sweep runs, and the replacements that nnsight makes.

Read in this order: alignment, batching, buckets, replacement, generic, resumed (the fast path), engine; then direct
effects, gradients, neurons, attention patterns, knock-out and edges between heads.
"""
