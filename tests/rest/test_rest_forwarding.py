"""Everything but judged calls passes through: methods, paths, headers, statuses and bodies, as they come."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from time import monotonic, sleep

import httpx
import pytest

from demur.monitor.config.server import LimitsConfig
from demur.monitor.errors import ConfigurationError
from tests.rest.conftest import INFER, Said, request, said, same
from tests.service.bundles import GOOD

SMALL = LimitsConfig(message_bytes=4096)


def until(condition, seconds: float = 10.0) -> None:
    ends = monotonic() + seconds
    while not condition():
        assert monotonic() < ends, "it never came true"
        sleep(0.005)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_any_method_path_and_query_reach_upstream_as_they_are(stage, method):
    stage.upstream.says(Said(202, b"yes", {"X-Mixed-Case": "\xe9", "Set-Cookie": "a=1"}))
    target = "/v2/any%2Fthing/%7Ex;y=1?a=%20b&&c=+&a="
    connection = http.client.HTTPConnection(stage.proxy().removeprefix("http://"))
    connection.request(method, target, b"body" if method in ("POST", "PUT", "PATCH") else None)
    answer = connection.getresponse()
    assert answer.status == 202
    assert answer.headers["x-mixed-case"] == "\xe9"
    assert answer.read() == (b"" if method == "HEAD" else b"yes")
    connection.close()
    (asked,) = stage.upstream.seen
    assert (asked.method, asked.target) == (method, target)


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 404, 429, 500, 503])
def test_any_status_reaches_the_client(stage, status):
    stage.upstream.says(
        Said(status, b"" if status in (204, 304) else b"why", {"Location": "/elsewhere", "Retry-After": "1"})
    )
    proxy = stage.proxy()
    same(stage.client.get(stage.direct + "/v2/health/ready"), stage.client.get(proxy + "/v2/health/ready"))


def test_headers_of_one_connection_stay_on_it(stage):
    stage.upstream.says(Said(200, b"", {"Connection": "x-hop", "X-Hop": "1", "Keep-Alive": "timeout=1", "X-End": "1"}))
    proxy = stage.proxy()
    sent = {
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "TE": "trailers",
        "Proxy-Authorization": "no",
        "X-Ours": "kept",
    }
    answer = stage.client.get(proxy + "/v2", headers=sent)
    asked = {k.lower() for k, _ in stage.upstream.seen[0].headers}
    assert not asked & {"x-mine", "te", "proxy-authorization", "keep-alive"}
    assert "x-ours" in asked
    assert stage.upstream.seen[0].header("host") == stage.direct.removeprefix("http://")
    assert {"x-hop", "keep-alive"}.isdisjoint(answer.headers)
    assert answer.headers["x-end"] == "1"


def test_a_stream_of_events_arrives_while_it_is_made(stage):
    parts, go_on, arrived = [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"], threading.Event(), []
    stage.upstream.says(Said(200, parts=parts, next_part=go_on, headers={"Content-Type": "text/event-stream"}))
    with stage.client.stream("POST", stage.proxy() + "/v2/models/other/generate_stream", content=b"{}") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for part in answer.iter_raw():
            arrived.append(part)
            go_on.set()  # upstream makes the next part only after this one has arrived
    assert arrived == parts


def test_a_request_body_in_chunks_passes_through(stage):
    def chunks():
        yield b"a" * 1000
        yield b"b" * 1000

    stage.client.post(stage.proxy() + "/v2/repository/models/x/load", content=chunks())
    assert stage.upstream.seen[0].body == b"a" * 1000 + b"b" * 1000
    assert stage.upstream.seen[0].header("transfer-encoding") == "chunked"


@pytest.mark.parametrize("target", [INFER, "/v2/anything"])
def test_a_body_beyond_the_limit_is_refused_by_its_announcement(stage, target):
    connection = http.client.HTTPConnection(stage.proxy(limits=SMALL).removeprefix("http://"), timeout=10)
    connection.putrequest("POST", target)
    connection.putheader("Content-Length", "5000")
    connection.endheaders()  # and not a byte of it
    answer = connection.getresponse()
    assert answer.status == 413
    assert "limits.message_bytes = 4096" in json.loads(answer.read())["error"]
    connection.close()
    assert stage.upstream.seen == []


@pytest.mark.parametrize("target", [INFER, "/v2/anything"])
def test_a_body_beyond_the_limit_is_refused_when_it_was_not_announced(stage, target):
    answer = stage.client.post(stage.proxy(limits=SMALL) + target, content=iter([b"x" * 3000] * 2))
    assert answer.status_code == 413
    assert "limits.message_bytes = 4096" in answer.json()["error"]


def test_a_small_body_that_unfolds_beyond_the_limit_is_refused(stage):
    import gzip

    bomb = gzip.compress(b" " * 10_000_000)
    bomb = bomb if len(bomb) < 4096 else gzip.compress(b" " * 1_000_000)
    answer = stage.client.post(stage.proxy(limits=SMALL) + INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "limits.message_bytes" in answer.json()["error"]


def test_an_answer_beyond_the_limit_names_it(stage):
    stage.upstream.says(Said(200, b"x" * 5000))
    answer = stage.client.post(stage.proxy(limits=SMALL) + INFER, json=request([GOOD]))
    assert answer.status_code == 502
    assert "limits.message_bytes = 4096" in answer.json()["error"]
    assert stage.client.get(stage.proxy(limits=SMALL) + "/v2").content == b"x" * 5000


def test_an_upstream_that_is_not_there_is_a_502(stage):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    proxy = stage.proxy(rest={"upstream": f"http://127.0.0.1:{port}"})
    for target in (INFER, "/v2/other"):
        answer = stage.client.post(proxy + target, json=request())
        assert answer.status_code == 502
        assert answer.json()["error"].startswith(f"demur: no answer from upstream http://127.0.0.1:{port}")


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
def test_an_upstream_that_takes_too_long_is_a_504_and_is_told_to_stop(stage, target):
    async def script(_asked):
        await asyncio.sleep(30)

    stage.upstream.script = script
    answer = stage.client.post(stage.proxy(rest={"timeout_seconds": 0.3}) + target, json=request())
    assert answer.status_code == 504
    until(lambda: stage.upstream.left == [target])


def closed_after(connection: socket.socket, drip: bytes = b"", seconds: float = 10.0) -> float:
    """How long the other side keeps the connection open while it gets a byte of `drip` now and then, and nobody reads."""
    began = monotonic()
    connection.settimeout(0.05)
    while monotonic() - began < seconds:
        try:
            connection.sendall(drip)
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return monotonic() - began


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
def test_a_body_that_drips_holds_no_place(stage, target):
    proxy = stage.proxy(rest={"timeout_seconds": 0.5}).removeprefix("http://")
    with socket.create_connection(tuple(proxy.split(":"))) as connection:
        connection.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        assert 0.4 < closed_after(connection, b"x") < 5
    assert [e.kind for e in stage.refusals] == ["invalid"]


@pytest.mark.parametrize("drip", [b"", b"x"])
@pytest.mark.parametrize("before", [b"", b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_never_ends_holds_no_connection(stage, before, drip):
    proxy = stage.proxy(rest={"timeout_seconds": 0.5}).removeprefix("http://")
    with socket.create_connection(tuple(proxy.split(":"))) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")
        connection.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nX-Long: ")
        assert 0.4 < closed_after(connection, drip) < 5


def test_a_head_that_begins_while_the_answer_is_under_way_holds_no_connection(stage):
    proxy = stage.proxy(rest={"timeout_seconds": 0.5}).removeprefix("http://")
    with socket.create_connection(tuple(proxy.split(":"))) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nPOST /v2/models/digits/infer HTTP/1.1\r\nX-Long: ")
        assert closed_after(connection) < 5


def test_a_client_that_waits_between_requests_is_kept(stage):
    with httpx.Client(timeout=20) as client:
        proxy = stage.proxy(rest={"timeout_seconds": 0.3})
        ports = []
        for _ in range(2):
            answer = client.post(proxy + INFER, json=request([GOOD]))
            ports.append(answer.extensions["network_stream"].get_extra_info("client_addr"))
            sleep(0.7)
    assert ports[0] == ports[1]


def test_a_client_that_reads_no_more_holds_no_place(stage):
    stage.upstream.says(Said(200, b"x" * (16 << 20)))
    proxy = stage.proxy(rest={"timeout_seconds": 0.5}, limits=LimitsConfig(concurrent_rpcs=1))
    with socket.create_connection(tuple(proxy.removeprefix("http://").split(":"))) as connection:
        connection.sendall(b"GET /v2/large HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: stage.client.get(proxy + "/v2").status_code == 503)
        until(lambda: stage.client.get(proxy + "/v2").status_code == 200)


def test_a_client_that_reads_slowly_gets_it_all(stage):
    stage.upstream.says(Said(200, b"x" * (8 << 20)))
    proxy = stage.proxy(rest={"timeout_seconds": 0.4}).removeprefix("http://")
    with socket.create_connection(tuple(proxy.split(":"))) as connection:
        connection.sendall(b"GET /v2/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = 0
        while part := connection.recv(1 << 18):
            found += len(part)
            sleep(0.04)
    assert found > 8 << 20


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
def test_a_client_that_stops_sending_holds_no_place(stage, target):
    connection = http.client.HTTPConnection(
        stage.proxy(rest={"timeout_seconds": 0.3}).removeprefix("http://"), timeout=10
    )
    connection.putrequest("POST", target)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"the beginning")
    answer = connection.getresponse()
    assert answer.status == 408
    assert "no more of the body" in json.loads(answer.read())["error"]
    connection.close()


def test_an_upstream_that_breaks_off_is_a_502(stage):
    broken = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = broken.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    proxy = stage.proxy(rest={"upstream": f"http://127.0.0.1:{broken.getsockname()[1]}"})
    assert stage.client.post(proxy + INFER, json=request()).status_code == 502
    thread.join()
    broken.close()


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
def test_a_connection_that_brought_a_500_is_not_used_again(stage, target):
    """As uvicorn does, and so MLServer and KServe: an answer to an exception, and then the connection is as good as closed."""
    listening, connections = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        for _ in range(3):
            connection, _ = listening.accept()
            connections.append(connection)
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\noh")

    thread = threading.Thread(target=serve)
    thread.start()
    proxy = stage.proxy(rest={"upstream": f"http://127.0.0.1:{listening.getsockname()[1]}", "timeout_seconds": 2})
    for _ in range(3):
        answer = stage.client.post(proxy + target, json=request())
        assert (answer.status_code, answer.content) == (500, b"oh")
    thread.join()
    for one in (listening, *connections):
        one.close()


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
def test_a_client_that_goes_away_ends_the_upstream_call(stage, target):
    async def script(_asked):
        await asyncio.sleep(30)

    stage.upstream.script = script
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(stage.proxy() + target, json=request(), timeout=httpx.Timeout(5, read=0.3))
    until(lambda: stage.upstream.left == [target])


def test_exchanges_beyond_the_limit_are_refused_at_once(stage):
    release = threading.Event()

    async def script(_asked):
        await asyncio.to_thread(release.wait, 20)
        return said({})

    stage.upstream.script = script
    proxy = stage.proxy(limits=LimitsConfig(concurrent_rpcs=2))
    threads = [threading.Thread(target=httpx.get, args=(proxy + "/v2",), kwargs={"timeout": 20}) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(stage.upstream.seen) == 2)
    answer = stage.client.get(proxy + "/v2")
    assert answer.status_code == 503
    assert "concurrent_rpcs = 2" in answer.json()["error"]
    release.set()
    for thread in threads:
        thread.join()
    assert stage.client.get(proxy + "/v2").status_code == 200
    assert [e.kind for e in stage.refusals] == ["overloaded"]


def test_a_model_that_hangs_leaves_places_for_the_others(stage):
    """Of eight places six are one model's, however its path is spelled."""
    release = threading.Event()

    async def script(asked):
        if "digits" in asked.target:
            await asyncio.to_thread(release.wait, 20)
        return said({})

    stage.upstream.script = script
    proxy = stage.proxy(limits=LimitsConfig(concurrent_rpcs=8))
    paths = [INFER, INFER + "/", INFER.replace("/v2/", "//v2/")] * 2
    held = [
        threading.Thread(target=httpx.post, args=(proxy + path,), kwargs={"timeout": 20, "content": b"{}"})
        for path in paths
    ]
    for thread in held:
        thread.start()
    until(lambda: len(stage.upstream.seen) == 6)
    refused = stage.client.post(proxy + INFER, content=b"{}")
    assert refused.status_code == 503
    assert refused.json() == {"error": "demur: 6 such calls wait for upstream already; try again"}
    assert stage.client.get(proxy + "/v2/health/ready").status_code == 200
    assert stage.client.post(proxy + "/v2/models/letters/infer", content=b"{}").status_code == 200
    release.set()
    for thread in held:
        thread.join()
    assert stage.client.post(proxy + INFER, content=b"{}").status_code == 200


def test_many_at_once_each_get_their_own_answer(stage):
    proxy = stage.proxy()

    async def all_at_once():
        async with httpx.AsyncClient(timeout=20) as client:
            rows = [[float(5 + i), 0.0, 0.0, 0.0] for i in range(100)]
            answers = await asyncio.gather(
                *(client.post(proxy + INFER, json=request([r], outputs=["label"], id=str(r[0]))) for r in rows)
            )
            return [a.json()["id"] for a in answers], [str(r[0]) for r in rows]

    found, wanted = asyncio.run(all_at_once())
    assert found == wanted
    assert len(stage.decisions) == 100


def test_a_target_that_is_no_path_is_refused(stage):
    connection = http.client.HTTPConnection(stage.proxy().removeprefix("http://"))
    connection.request("POST", f"http://other{INFER}", b"{}")
    answer = connection.getresponse()
    assert (answer.status, "expected a path" in answer.read().decode()) == (400, True)
    connection.close()


@pytest.mark.parametrize("target", [INFER, "/v2/other"])
@pytest.mark.parametrize("length", [5, 1000])
def test_a_body_whose_end_is_told_in_two_ways_is_refused_and_the_connection_closed(stage, target, length):
    body = json.dumps(request()).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = socket.create_connection(tuple(stage.proxy().removeprefix("http://").split(":")), timeout=10)
    connection.sendall(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    heard = b"".join(iter(lambda: connection.recv(65536), b""))  # until it is closed
    connection.close()
    assert heard.startswith(b"HTTP/1.1 400")
    assert b"got both" in heard
    assert not stage.upstream.seen


def test_an_answer_whose_end_is_told_in_two_ways_goes_on_in_one(stage):
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = stage.proxy(rest={"upstream": f"http://127.0.0.1:{server.getsockname()[1]}"})

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
            )
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        found = stage.client.get(proxy + "/v2/other")
        thread.join()
    assert (found.content, found.headers.get("content-length")) == (b"whole", None)


def test_an_address_that_cannot_be_listened_on_is_refused_by_name(stage):
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:9"):
        stage.proxy(rest={"listen": "192.0.2.1:9"})  # of nobody's network


def test_a_port_that_is_taken_is_refused_with_the_address(stage):
    held = stage.proxy().removeprefix("http://")
    with pytest.raises(ConfigurationError, match=held):
        stage.proxy(rest={"listen": held})


def test_a_unix_socket_for_clients(stage, tmp_path):
    proxy = stage.proxy(rest={"listen": f"unix:{tmp_path}/r.sock"})
    assert proxy == f"unix:{tmp_path}/r.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=f"{tmp_path}/r.sock")) as client:
        assert client.post(f"http://demur{INFER}", json=request()).status_code == 200
    assert stage.verdicts.accept.tolist() == [True, False]


def test_a_unix_socket_that_another_server_answers_on_is_refused_and_a_dead_one_replaced(stage, tmp_path):
    stage.proxy(rest={"listen": f"unix:{tmp_path}/r.sock"})
    with pytest.raises(ConfigurationError, match="another server answers there"):
        stage.proxy(rest={"listen": f"unix:{tmp_path}/r.sock"})
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead.sock")
    assert stage.proxy(rest={"listen": f"unix:{tmp_path}/dead.sock"}) == f"unix:{tmp_path}/dead.sock"


def test_a_body_that_waits_for_a_word_first_is_asked_on(stage):
    connection = socket.create_connection(tuple(stage.proxy().removeprefix("http://").split(":")))
    body = json.dumps(request()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(body)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    connection.close()
    assert stage.upstream.seen[0].header("expect") is None
