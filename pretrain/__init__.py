"""Pretraining: Lightning modules, data modules and callbacks behind ``ssl-affect pretrain``."""
