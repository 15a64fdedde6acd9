"""From raw files to a prepared set: clips go through media and features, by named recipes."""
