"""Engines to compare with: one module each, run as a program in its own environment.

A peer is started as `python bench/peers/<name>.py MODEL THREADS`. It prints one line of JSON when the model is loaded
({"version": ...}) and then answers each line of its input, "pp N" or "tg N", with {"tokens_per_second": ...}.
"""
