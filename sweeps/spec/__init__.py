"""What an experiment file may say: sweep, space, config, flags. Knows nothing of how any of it is carried out."""
