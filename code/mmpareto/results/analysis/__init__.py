"""What runs have recorded and what their checkpoints show: Figure 1 of the paper, and a page."""
