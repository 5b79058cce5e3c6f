"""Spec and Machine to a Plan: an ordered tuple of Steps, pure and printable."""
