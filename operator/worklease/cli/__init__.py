"""What people see in a terminal: ``worklease status`` and ``worklease explain``.

A client of the Kubernetes API and nothing more: it reads WorkLeases, their events and their pods, and knows nothing of
the operator's process. It must not write.
"""
