"""What shows data to a person."""
