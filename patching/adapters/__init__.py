"""One file a model family: how its text tower is read out of the source model."""
