"""How long, how large, how fast: what a run will need, from measurements of the machine and a count of the work.

``job.py`` reads a recipe, ``corpus.py`` the data, ``work.py`` counts what one clip costs, ``machine.py`` says what the
machine can do (``measuring.py`` measures it), and ``predict.py`` puts them together.
"""
