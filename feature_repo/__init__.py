"""Feast definitions only: `feast apply` imports every module below this folder, so nothing here may run anything."""
