"""One run: its flags, parts, folder, checkpoint and scores."""
