"""Traced programs analysed (where they branch, whether they are linear, what their slopes depend on) and evaluated."""
