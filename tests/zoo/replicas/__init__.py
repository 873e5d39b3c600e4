"""Source models whose packages are not on any index here, written anew: their class, attribute and weight names.

Each states where the original is described. ``__module__`` is the original's, because adapters know a class by it.
Image towers are tiny stand-ins under the original's attribute: only the text side is traced.
"""
