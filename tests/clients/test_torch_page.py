"""The page on collecting, its PyTorch blocks included."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_every_block_of_the_page_runs_with_pytorch(tmp_path, monkeypatch):
    from tests.docs.pages import REPOSITORY, WITH_TORCH, blocks, reading

    monkeypatch.chdir(tmp_path)
    page = blocks(REPOSITORY / "docs" / "collect.md")
    assert sum(block.text.startswith(WITH_TORCH) for block in page) == 2
    with reading() as reader:
        for block in page:
            if block.language in ("python", "yaml", "console"):
                getattr(reader, block.language)(block)
