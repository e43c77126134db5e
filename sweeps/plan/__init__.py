"""Which trials and runs a sweep makes, and the record of that. Knows not how to train."""
