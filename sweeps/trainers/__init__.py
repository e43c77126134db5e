"""What trains a config: `tinylm_core`, or a function of the user's own; one protocol. Knows no driver."""
