"""How each sample is fetched, checked and written; `warmstart.data.samples` is the public side."""

__all__: list[str] = []
