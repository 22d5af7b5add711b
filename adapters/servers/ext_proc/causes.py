"""Why an answer cannot be judged for the way that Envoy sends it."""

from __future__ import annotations

ADVICE = "set processing_mode.response_body_mode: BUFFERED"
STREAMED = f"Envoy streams the answer to the client before it can be judged; {ADVICE}"
NOT_SENT = f"Envoy sends no bodies of answers; {ADVICE}"
NOT_TAKEN = "Envoy did not take the processing mode it was asked for; set allow_mode_override: true"
NEVER_CAME = "Envoy ended the exchange without the body of the answer"
