"""The demo: the operator's main job, told in five chapters on a real control plane, each claim checked.

Owns the story, what a reader sees of it and the processes it needs. Must not know the operator from inside: it looks at
what kubectl shows and at what the simulator has recorded, as anybody could.
"""
