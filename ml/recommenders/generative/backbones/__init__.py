"""Networks that read histories and write semantic IDs."""
