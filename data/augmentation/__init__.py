"""Augmentation of images in batches: what can be done to them, and how it is put together."""
