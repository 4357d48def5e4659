"""Domain generalisation and learning from sources whose labels differ."""
