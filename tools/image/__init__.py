"""Building the image without a registry of images, and looking into it.

Owns what `make image` does beside the Dockerfile, which must be enough for anybody with docker. Must not be needed for
anything but `make image`.
"""
