"""The Cloud API for operators and scripts: `async with Client(url, api_key=…) as client: …`.

Everything that goes in and comes out has a type: the models that the API itself checks and answers
with. Errors are those of `iotistica.errors`, with the sentence of the API.
"""

from __future__ import annotations

from iotistica.client.client import Client
from iotistica.client.transport import Login, Transport

__all__ = ["Client", "Login", "Transport"]
