"""warmstart's discipline inside other libraries' training loops.

Each module is imported by its own name, so that nothing is loaded that is not used:
`from warmstart.integrations.transformers import FrozenIsFrozen`.
"""

__all__: list[str] = []
