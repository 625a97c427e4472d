"""Files and formats of others, turned into records."""
