"""The training itself: workers, loop, optimizer step, and accuracy on held-out rows. May import the whole package."""
