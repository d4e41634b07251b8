"""The command line for people: ``worklease status`` and ``worklease explain``.

Only a client of the Kubernetes API: it reads WorkLeases, their events and their pods, and knows nothing of the
operator's process. It must not write.
"""
