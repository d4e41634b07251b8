"""The WorkLease as the API server has it: its models and its names."""
