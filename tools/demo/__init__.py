"""The demo: the operator's main job, shown in six chapters on a real control plane, with each claim checked.

Owns the story, what a reader sees of it and the processes it needs. Must not know the operator's internals: it looks at
what kubectl shows and at what the simulator recorded, as any user could.
"""
