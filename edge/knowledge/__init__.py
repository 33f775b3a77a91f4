"""The plant's own documents: read, cut into passages, kept by version.

Nothing is imported here: the process that reads a stranger's file starts from this package and must stay small.
"""
