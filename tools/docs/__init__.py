"""The parts of the documents that are written by the code itself, and the hook by which the site is built.

Not shipped. `python -m docs` writes them; a test holds that they are current.
"""
