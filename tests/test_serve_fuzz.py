"""Every operation of the API, asked thousands of odd things: no failure, no hang, as documented."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lensbase.api.serve.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SECONDS = 20.0  # that one answer may take, on cores that others use too
REDUCED = os.environ.get("LENSBASE_REDUCED") == "1"

# What is in the store, so that not all that is asked ends at a name that is not there.
KNOWN: dict[str, list[Any]] = {
    "run": ["r"],
    "head": ["L3.H1", "L0.H0"],
    "neuron": ["L4.N7", "L2.N0"],
    "image_id": [0, 17, 149],
    "zoo": ["scenes"],
    "concept": [0, 3],
    "unit": ["clip:visual.transformer.resblocks.0.mlp.gelu/1"],
    "to": ["17", "0"],
    "images": [[0], [0, 7]],
    "label": ["shape"],
    "by": ["color", "shape"],
    "rank": [0],
    "model": ["clip", "resnet"],
    "text": ["a red circle", "an object on water"],
    "query": ["SELECT * FROM runs", "SELECT count(*) FROM images"],
}


@pytest.fixture(scope="module")
def app(world_zoo: Path) -> Generator[FastAPI]:
    app = create_app(world_zoo, new_texts=False)
    yield app
    app.state.sql.close()
    app.state.served.close()


def asked_all(app: FastAPI, *, examples: int) -> dict[str, list[int]]:
    """Ask every operation so many things; the statuses that each gave."""
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    statuses: dict[str, list[int]] = {}
    failures: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()  # pyright: ignore[reportAttributeAccessIssue]
        found: list[int] = []
        try:
            _ask(operation, found, examples=examples)
        except (AssertionError, schemathesis.errors.SchemathesisError, ExceptionGroup) as error:
            parts = error.exceptions if isinstance(error, ExceptionGroup) else [error]
            failures.append(f"{operation.label}: " + "; ".join(map(str, parts)))
        statuses[operation.label] = found
    assert not failures, "\n\n".join(failures)
    return statuses


def _ask(operation: Any, found: list[int], *, examples: int) -> None:
    @seed(7)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(
        case=operation.as_strategy()
        | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    )
    def ask(case: Any) -> None:
        # The same case is always asked alike, or Hypothesis would call it flaky.
        choose = random.Random(repr((case.path_parameters, case.query)))
        for place in (case.path_parameters, case.query):
            for name in place or {}:
                if name in KNOWN and choose.random() < 0.75:
                    place[name] = choose.choice(KNOWN[name])
                if name == "seconds":
                    place[name] = 0.5
        if isinstance(case.body, dict) and "seconds" in case.body:
            case.body["seconds"] = 0.5
        start = time.perf_counter()
        response = case.call()
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, f"{seconds:.1f} s: {case.as_curl_command()}"
        case.validate_response(response, checks=CHECKS)
        found.append(response.status_code)

    ask()


def test_nothing_that_is_asked_fails(app: FastAPI) -> None:
    statuses = asked_all(app, examples=6)
    assert len(statuses) > 20
    assert all(statuses.values())
    every = [status for found in statuses.values() for status in found]
    assert {200, 404, 422} <= set(every)
    assert every.count(200) > len(every) / 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_of_much_that_is_asked_fails(app: FastAPI) -> None:
    statuses = asked_all(app, examples=20 if REDUCED else 150)
    answered = [label for label, found in statuses.items() if 200 in found]
    assert len(answered) > 0.8 * len(statuses), sorted(set(statuses) - set(answered))
