"""What people see of the operator: metrics, logs, events, probes."""
