"""The files of a released folder, by name. They stand apart so that commands which only look need not import torch."""

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SELFTEST_NAME = "selftest.safetensors"
CARD_NAME = "README.md"
RELEASED_NAMES = (WEIGHTS_NAME, CONFIG_NAME, SELFTEST_NAME, CARD_NAME)  # what a released folder may hold
