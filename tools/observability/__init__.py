"""What watches over the operator: the chart's alerts and dashboard, a Prometheus to try them with, and pictures.

Not shipped. Must not know how the operator works: it knows its metrics' page, as any Prometheus does.
"""
