"""Tiny models that the real engines can run, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import make_model


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers whose head shares the embedding's weights: a model directory with its tokenizer."""
    return make_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    return make_model(tmp_path_factory.mktemp("untied"), tied=False)
