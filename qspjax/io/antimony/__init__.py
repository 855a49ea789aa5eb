"""Models in Antimony, read and written with libantimony."""
