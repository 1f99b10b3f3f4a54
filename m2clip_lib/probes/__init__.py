"""Probes: small classifiers on features of frozen CLIP, which are computed once. The honest rivals of an adapter."""
