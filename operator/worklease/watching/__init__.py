"""What Kubernetes reports: watches and timers through Kopf, and full lists."""
