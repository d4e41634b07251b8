"""What Kubernetes tells: watches, timers and the first list, through Kopf."""
