"""Keep the work leases of self-hosted agent sandboxes, as a Kubernetes operator."""
