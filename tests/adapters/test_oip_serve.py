"""`demur serve` as a process, asked to stop while calls are under way: who got an answer has a record."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import grpc

from demur.monitor.audit.export import read_log
from demur.monitor.audit.verify import verify_log
from tests.adapters.conftest import INFER, MODEL, SERVICE, request
from tests.service.bundles import row_bundle
from tests.test_serve import configuration, serving


def message(name: str) -> bytes:
    return request(rows=1).replace(b"\x1a\x03r-1", b"\x1a" + bytes([len(name)]) + name.encode())


def test_a_server_that_is_asked_to_stop_under_load_records_every_answer_that_went_out(honest, tmp_path):
    row_bundle().save(tmp_path / "toy.demur")
    models = {MODEL: {"monitor": "toy", "signals": {"logits": "scores"}}}
    proxy = {"listen": "127.0.0.1:0", "upstream": honest.target, "models": models}
    answered: list[str] = []
    ended = threading.Event()

    def unary(address: str, caller: int) -> None:
        call, number = honest.channel(address).unary_unary(INFER), 0
        while not ended.is_set():
            call(message(name := f"u{caller}-{number}"), timeout=20)
            answered.append(name)
            number += 1

    def stream(address: str, caller: int) -> None:
        names = [f"s{caller}-{number}" for number in range(100_000)]
        call = honest.channel(address).stream_stream(f"{SERVICE}ModelStreamInfer")(map(message, names))
        for name, _ in zip(names, call, strict=False):
            answered.append(name)

    with serving(configuration(tmp_path, proxy=proxy, drain_seconds=0.5)) as (process, addresses):
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(kind, addresses["proxy"], caller) for kind in (unary, stream) for caller in range(2)]
            sleep(1.5)
            process.terminate()
            assert process.wait(20) == 0
            ended.set()
            assert all(isinstance(call.exception(20), grpc.RpcError) for call in calls)  # until then they went on
    recorded = Counter(record.request for record, _ in read_log(tmp_path / "audit") if record.kind == "verdict")
    assert {name[0] for name in answered} == {"u", "s"}
    assert [name for name in answered if recorded[name] != 1] == []
    assert verify_log(tmp_path / "audit").ok
