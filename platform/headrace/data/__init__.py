"""Bytes to clips, in plain Python: manifest, order, storage, decoding, failures. No Ray in here."""
