"""`demur serve` with the REST proxy: alone, beside the gRPC one, asked to stop, and refused when it makes no sense."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import httpx
import pytest

from demur.monitor.audit.export import read_log
from demur.monitor.audit.verify import verify_log
from demur.monitor.config.server import ProxyConfig
from demur.monitor.demo.proxy_board import Line, ProxyBoard
from tests.rest.conftest import INFER, MODEL, inferred, request
from tests.service.bundles import GOOD, row_bundle
from tests.test_serve import configuration, serving

MAPPED = {MODEL: {"monitor": "toy", "signals": {"logits": "scores"}}}


def test_a_server_of_rest_alone_judges_records_and_drains(stage, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    rest = {"listen": "127.0.0.1:0", "upstream": stage.direct}
    with serving(configuration(tmp_path, proxy={"rest": rest, "models": MAPPED})) as (process, addresses):
        assert addresses["proxy"] == ""
        for _ in range(3):
            answer = httpx.post(f"http://{addresses['proxy_rest']}{INFER}", json=request(outputs=["label"]), timeout=20)
            assert [o["name"] for o in answer.json()["outputs"]] == ["label"]
        process.terminate()
        assert process.wait(20) == 0
    report = verify_log(tmp_path / "audit")
    assert report.ok
    assert report.size >= 3  # the three calls, and what the server says of itself


def test_a_server_that_is_asked_to_stop_under_load_records_every_answer_that_went_out(stage, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    rest = {"listen": "127.0.0.1:0", "upstream": stage.direct}
    answered: list[str] = []

    def call(url: str, caller: int) -> None:
        with httpx.Client(timeout=20) as client:
            while client.post(url, json=request([GOOD], id=(name := f"{caller}-{len(answered)}"))).status_code == 200:
                answered.append(name)

    document = configuration(tmp_path, proxy={"rest": rest, "models": MAPPED}, drain_seconds=1)
    with serving(document) as (process, addresses), ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(call, f"http://{addresses['proxy_rest']}{INFER}", caller) for caller in range(3)]
        sleep(1.0)
        process.terminate()
        assert process.wait(20) == 0
        assert all(isinstance(c.exception(20), httpx.TransportError) for c in calls)
    recorded = Counter(record.request for record, _ in read_log(tmp_path / "audit") if record.kind == "verdict")
    assert answered
    assert [name for name in answered if recorded[name] != 1] == []


def test_a_request_under_way_is_answered_when_the_server_is_asked_to_stop(stage, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    came, slow = threading.Event(), 2.0  # longer than anything that is ended at once

    async def script(asked):
        came.set()
        await asyncio.sleep(slow)
        return inferred(asked)

    stage.upstream.script = script
    rest = {"listen": "127.0.0.1:0", "upstream": stage.direct}
    with serving(configuration(tmp_path, proxy={"rest": rest, "models": MAPPED})) as (process, addresses):
        with ThreadPoolExecutor(1) as pool:
            url = f"http://{addresses['proxy_rest']}{INFER}"
            under_way = pool.submit(httpx.post, url, json=request([GOOD]), timeout=20)
            assert came.wait(20)
            process.terminate()
            assert under_way.result(20).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.post(url, json=request([GOOD]), timeout=20)
        assert process.wait(20) == 0
    report = verify_log(tmp_path / "audit")
    assert report.ok


def test_the_services_token_does_not_guard_the_proxy_and_the_clients_own_goes_upstream(stage, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    (tmp_path / "token").write_text("ours" * 8)
    proxy = {"rest": {"listen": "127.0.0.1:0", "upstream": stage.direct}, "models": MAPPED}
    document = configuration(tmp_path, proxy=proxy, token_file=str(tmp_path / "token"))
    with serving(document) as (_, addresses):
        url = f"http://{addresses['proxy_rest']}{INFER}"
        answer = httpx.post(url, json=request([GOOD]), headers={"Authorization": "Bearer theirs"}, timeout=20)
    assert answer.status_code == 200
    assert stage.upstream.seen[0].header("authorization") == "Bearer theirs"


def test_both_sides_stand_beside_each_other(stage, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    rest = {"listen": "127.0.0.1:0", "upstream": stage.direct}
    proxy = {"listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "rest": rest, "models": MAPPED}
    with serving(configuration(tmp_path, proxy=proxy)) as (_, addresses):
        assert addresses["proxy"]
        answer = httpx.post(f"http://{addresses['proxy_rest']}{INFER}", json=request([GOOD]), timeout=20)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give `listen` and `upstream`"),
        ({"listen": "127.0.0.1:0"}, "give `listen` and `upstream`"),
        ({"upstream": "127.0.0.1:1"}, "give `listen` and `upstream`"),
        ({"rest": {"listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}}, "rest.upstream"),
        ({"rest": {"listen": "127.0.0.1:0", "upstream": "http://h:1/path"}}, "rest.upstream"),
        ({"rest": {"listen": "127.0.0.1:0", "upstream": "http://user:secret@h:1"}}, "rest.upstream"),
        ({"rest": {"listen": "127.0.0.1:0", "upstream": "http://h:1", "upstream_tls_ca": "ca.pem"}}, "write https://"),
        ({"rest": {"listen": "nowhere", "upstream": "http://h:1"}}, "rest.listen"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ProxyConfig.model_validate({"models": {}, **fields})


def test_the_tours_table_fits_80_columns_and_knows_when_all_is_well(capsys):
    from rich.console import Console

    lines = [Line("photograph patches", 300, {"none": 0, "novel": 299, "ambiguous": 1}, 300, 12.3, 45.6)]
    board = ProxyBoard(lines)
    assert board.good
    Console(width=80).print(board.table())
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
    lines[0].same = 299
    assert not board.good
    lines[0].same, lines[0].counts = 300, {"novel": 299, "unavailable": 1}
    assert not board.good
