"""What the tracker must be told: operations, durable on disk first, then sent by one thread."""
