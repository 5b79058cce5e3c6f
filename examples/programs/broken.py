"""Fails as programs do: with a traceback and a status."""

import json

print("reading the settings")
json.loads('{"workers": 4,')
