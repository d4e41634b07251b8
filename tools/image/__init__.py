"""Building the image without an image registry, and inspecting it.

Owns what `make image` does in addition to the Dockerfile, which alone must be enough for docker. Must not be needed for
anything but `make image`.
"""
