"""What the operator asks of the Work API, within one budget."""
