"""Tables against a peer that runs in the same process tree."""
