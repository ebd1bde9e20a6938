"""Inputs that must be refused, by subject, and what they are given to."""
