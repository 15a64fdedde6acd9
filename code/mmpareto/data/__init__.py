"""What a sample is: batches, the prepared layout, and its readers."""
