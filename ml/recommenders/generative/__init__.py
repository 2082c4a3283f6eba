"""Recommenders that generate an item's semantic ID code by code, over the trie of IDs that exist."""
