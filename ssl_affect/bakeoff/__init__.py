"""``ssl-affect bakeoff``: several methods, the same shards, the same compute, and one honest report.

``config`` says what a study is, ``commands`` turns it into commands of the project, ``run`` runs them, ``results`` reads
what they wrote into one JSON file; ``report`` and ``summary`` write pages from that file alone.
"""
