"""From a causal profile to layer weights: the plan, its sources, its stability, its file."""
