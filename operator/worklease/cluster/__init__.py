"""What the operator asks of the Kubernetes API."""
