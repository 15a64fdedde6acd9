"""The paper: MMPareto on two gradients, for any training loop."""
