"""Inputs of every kind, drawn at random, for every reader, options object and command.

`guard` says what is asked of a call, `odd` draws the inputs, `files`, `options` and `commands` list what is called.
"""
