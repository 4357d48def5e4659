"""Few-shot protocols: nested supports and the k-shot curve."""
