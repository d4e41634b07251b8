"""Monitoring of the operator: the chart's alerts and dashboard, a Prometheus to try them with, and pictures.

Not shipped. Must not know how the operator works: it knows only its metrics, like any Prometheus.
"""
