"""Asks a sidecar. Whatever happens, `assess` returns verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Literal, Self

import grpc

from demur.monitor.client import request as wire
from demur.monitor.client.answer import BadAnswer, decode
from demur.monitor.client.channel import authorization, connect
from demur.monitor.client.failure import BAD_ANSWER, Failure, Failures, failure
from demur.monitor.client.policies import Policies
from demur.monitor.client.status import MonitorStatus, status
from demur.monitor.client.stream import ClientStream, StreamCalls
from demur.monitor.client.unanswered import Unanswered
from demur.monitor.observation import Observation
from demur.monitor.verdicts import Verdicts
from demur.proto.v1 import monitor_pb2 as pb
from demur.proto.v1.monitor_pb2_grpc import MonitorServiceStub

FIRST_PAUSE_SECONDS = 0.02


class Client:
    """A client of one sidecar. Thread-safe; make one per process and keep it.

    Every failure to reach the monitor or to be answered becomes ABSTAIN(UNAVAILABLE) with its cause, counted in
    `failures`. `on_failure` then says what the caller is told to do, "block" or "pass", never what the verdict is; a
    monitor last seen in mode `observe` tells nothing, because observing must not interfere.

    A call is repeated, within its deadline, only when the server surely did no work for it: it refused the call
    (overloaded, draining) or was never connected to. A connection lost with the request under way is not repeated:
    the answer would be the same, but the audit log would hold the request twice.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls_ca: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
        timeout_seconds: float = 1.0,
        on_failure: Literal["block", "pass"] = "block",
        retries: int = 2,
    ) -> None:
        """Connects on first use; the monitor is named in each call.

        address: host:port or unix:/path. token: what the server's `token_file` holds. tls_ca: PEM of the authority that signed
        the server's certificate; TLS is on with it. client_cert, client_key: PEM, for a server that asks for them.
        timeout_seconds: of a whole call, retries included. on_failure: what callers are told to do about rows that nobody
        judged. retries: how often a call is repeated.
        Raises: ConfigurationError for files that cannot be read, ValueError for another `on_failure`.
        """
        self._channel = connect(address, tls_ca=tls_ca, client_cert=client_cert, client_key=client_key)
        self._stub = MonitorServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._metadata = authorization(address, token, encrypted=tls_ca is not None)
        self._timeout, self._retries = timeout_seconds, retries
        self._failures = Failures()
        self._policies = Policies(self._get_monitor)
        self._unanswered = Unanswered(self._policies, self._failures, on_failure)
        self._calls = StreamCalls(self._stub, self._metadata, self._policies, self._unanswered, timeout_seconds)

    @property
    def failures(self) -> dict[str, int]:
        """How many calls got no verdicts from the server, by code."""
        return self._failures.read()

    def assess(
        self,
        *,
        monitor: str = "",
        group_id: Any = None,
        groups: Any = None,
        request_id: str = "",
        model: Mapping[str, str] | None = None,
        ids: Sequence[str] = (),
        timeout_seconds: float | None = None,
        **signals: Any,
    ) -> Verdicts:
        """Verdicts for N rows: each signal (N, width) float32. `monitor` may be left out when the server has only one.

        group_id (N,) integers for monitors that judge groups; groups (G,) integers, all of them, when some may have no rows.
        request_id and ids, one a row, are names for the audit log; model (name, version, digest, decoding) says which model
        spoke. timeout_seconds: for this call.
        Raises: InvalidObservation for arrays that could never be assessed (dtype, dimensions, unequal rows, masked values).
        """
        observation = wire.check(signals, group_id, groups, ids)
        request = wire.encode(observation, monitor=monitor, request_id=request_id, model=model)
        until = monotonic() + (self._timeout if timeout_seconds is None else timeout_seconds)
        answer = self._ask(request, until)
        if isinstance(answer, Failure):
            return self._unanswered.verdicts(monitor, observation, answer)
        return self._read(answer, monitor, observation, until)

    def stream(self, monitor: str = "") -> ClientStream:
        """A token stream; use it as a context manager and `step` it. All streams of a client share one call."""
        return self._calls.open(monitor)

    def label(
        self,
        *,
        sequence: int,
        row: int = 0,
        label: str = "",
        correct: bool | None = None,
        monitor: str = "",
        reviewer: str = "",
        note: str = "",
        kind: Literal["label", "review"] = "label",
    ) -> int:
        """Record ground truth or a review of row `row` of audit record `sequence`; the new record's number.

        Raises: Unreachable, UnknownMonitor, InvalidObservation, BundleError: a label that is not kept must not look kept.
        """
        request = pb.LabelRequest(
            monitor=monitor, sequence=sequence, row=row, label=label, correct=correct, reviewer=reviewer, note=note, kind=kind
        )  # fmt: skip
        return int(self._answered(self._stub.Label, request).sequence)

    def monitors(self) -> list[MonitorStatus]:
        """What the server serves. Raises: Unreachable."""
        return [status(info) for info in self._answered(self._stub.ListMonitors, pb.ListMonitorsRequest()).monitors]

    def close(self) -> None:
        """End every stream and the connection."""
        self._calls.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: pb.AssessRequest, until: float) -> pb.AssessResponse | Failure:
        if monotonic() >= until:  # gRPC rounds a timeout of 0 up and may still ask
            return Failure("deadline", "DEADLINE_EXCEEDED: no time is left for this call; raise timeout_seconds")
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(self._retries + 1):
            try:
                answer: pb.AssessResponse = self._stub.Assess(
                    request, timeout=max(0.0, until - monotonic()), metadata=self._metadata
                )
            except grpc.RpcError as error:
                failed = failure(error)
            except ValueError as error:  # a closed channel
                failed = Failure("closed", str(error))
            else:
                return answer
            wait = max(pause, failed.pause_seconds or 0.0)
            if not failed.safe or attempt == self._retries or monotonic() + wait >= until:
                break
            sleep(wait)
            pause *= 2
        return failed

    def _read(self, answer: pb.AssessResponse, monitor: str, observation: Observation, until: float) -> Verdicts:
        try:
            return decode(answer, observation, self._policies.of(answer, monitor, until - monotonic()))
        except BadAnswer as error:
            return self._unanswered.verdicts(monitor, observation, Failure(BAD_ANSWER, f"bad answer: {error}"))

    def _answered(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            failed = failure(error)
            raise failed.error() from error

    def _get_monitor(self, name: str, seconds: float) -> pb.MonitorInfo:
        found: pb.MonitorInfo = self._stub.GetMonitor(
            pb.GetMonitorRequest(monitor=name), timeout=seconds, metadata=self._metadata
        )
        return found
