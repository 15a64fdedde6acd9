"""What several datasets have in common."""
