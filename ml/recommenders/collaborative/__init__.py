"""Recommenders that know who met what, and not in which order; a user is what the items of a history say."""
