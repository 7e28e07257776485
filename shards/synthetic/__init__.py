"""Synthetic talking faces: short videos with sound that are drawn from known labels.

Every face here is made of formulas; nobody was filmed. Identity, action units, expression, valence, arousal and the
voice are known exactly because the pictures and the sound are made from them. The videos serve tests, the demo and
studies of what a method can recover; they say nothing about how a method does on people.

- :mod:`~shards.synthetic.settings`: size, rate and the difficulty knobs
- :mod:`~shards.synthetic.identity`: who is seen
- :mod:`~shards.synthetic.action_units`: expressions as action units, valence and arousal as formulas of them
- :mod:`~shards.synthetic.speech`: syllables, their mouth movements and their sound
- :mod:`~shards.synthetic.script`: what happens in one clip, as tracks over time
- :mod:`~shards.synthetic.relief`, :mod:`~shards.synthetic.features`, :mod:`~shards.synthetic.scene`: skin, moving
  features, surroundings; :mod:`~shards.synthetic.render` puts them together
- :mod:`~shards.synthetic.encode`, :mod:`~shards.synthetic.dataset`, :mod:`~shards.synthetic.cli`: files and folders

Nothing here imports torch.
"""
