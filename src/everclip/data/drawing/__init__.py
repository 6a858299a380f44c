"""Procedural pictures: the embedded, offline data of Everclip."""
