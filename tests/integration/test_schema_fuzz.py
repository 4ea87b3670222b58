"""R10: requests made of the OpenAPI document itself, right and wrong ones, against the whole API.

Nothing may answer 5xx, or with a status, type or body that the document does not name.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from tests.cloud_api import Api, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = int(os.environ.get("IOTISTICA_TEST_SCHEMA_EXAMPLES", "10"))
"""Requests for each operation and mode."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


def attack(url: str, mode: GenerationMode) -> int:
    """Send requests for every operation; how many operations there were."""
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
    headers = {"authorization": f"Bearer {token()}"}
    count = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # nothing that could be wrong
        count += 1

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(base_url=url, headers=headers, checks=CHECKS)

        ask()
    return count


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
async def test_no_request_is_answered_beside_the_document(api: Api, mode: GenerationMode) -> None:
    count = await asyncio.to_thread(attack, api.url, mode)
    assert count > 5
