"""Released backbones: what there is, where it comes from, whether it arrived whole, and whether it still computes the same.

``table`` knows names, ``hub`` fetches, ``locate`` turns any way of naming weights into a folder, ``selftest`` recomputes
what the weights must give, ``card`` is the text beside them, ``release`` writes all of it.
"""
