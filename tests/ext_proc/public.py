"""What the published protos say, taken from the packages xds-protos 1.85 and envoy-data-plane 2.2: field name, number, type.

`repeated` stands before a type of many; messages are named without their package. Only what demur's copy holds.
"""

FIELDS = {
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "HeaderMap": {"headers": (1, "repeated HeaderValue")},
    "HeaderValueOption": {
        "header": (1, "HeaderValue"),
        "append_action": (3, "HeaderAppendAction"),
        "keep_empty_value": (4, "bool"),
    },
    "HttpStatus": {"code": (1, "StatusCode")},
    "ProcessingMode": {
        "request_header_mode": (1, "HeaderSendMode"),
        "response_header_mode": (2, "HeaderSendMode"),
        "request_body_mode": (3, "BodySendMode"),
        "response_body_mode": (4, "BodySendMode"),
        "request_trailer_mode": (5, "HeaderSendMode"),
        "response_trailer_mode": (6, "HeaderSendMode"),
    },
    "ProtocolConfiguration": {
        "request_body_mode": (1, "BodySendMode"),
        "response_body_mode": (2, "BodySendMode"),
        "send_body_without_waiting_for_header_response": (3, "bool"),
    },
    "ProcessingRequest": {
        "request_headers": (2, "HttpHeaders"),
        "response_headers": (3, "HttpHeaders"),
        "request_body": (4, "HttpBody"),
        "response_body": (5, "HttpBody"),
        "request_trailers": (6, "HttpTrailers"),
        "response_trailers": (7, "HttpTrailers"),
        "observability_mode": (10, "bool"),
        "protocol_config": (11, "ProtocolConfiguration"),
    },
    "ProcessingResponse": {
        "request_headers": (1, "HeadersResponse"),
        "response_headers": (2, "HeadersResponse"),
        "request_body": (3, "BodyResponse"),
        "response_body": (4, "BodyResponse"),
        "request_trailers": (5, "TrailersResponse"),
        "response_trailers": (6, "TrailersResponse"),
        "immediate_response": (7, "ImmediateResponse"),
        "mode_override": (9, "ProcessingMode"),
    },
    "HttpHeaders": {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")},
    "HttpBody": {
        "body": (1, "bytes"),
        "end_of_stream": (2, "bool"),
        "end_of_stream_without_message": (3, "bool"),
        "grpc_message_compressed": (4, "bool"),
    },
    "HttpTrailers": {"trailers": (1, "HeaderMap")},
    "HeadersResponse": {"response": (1, "CommonResponse")},
    "BodyResponse": {"response": (1, "CommonResponse")},
    "TrailersResponse": {"header_mutation": (1, "HeaderMutation")},
    "CommonResponse": {
        "status": (1, "ResponseStatus"),
        "header_mutation": (2, "HeaderMutation"),
        "body_mutation": (3, "BodyMutation"),
        "clear_route_cache": (5, "bool"),
    },
    "ImmediateResponse": {
        "status": (1, "HttpStatus"),
        "headers": (2, "HeaderMutation"),
        "body": (3, "bytes"),
        "grpc_status": (4, "GrpcStatus"),
        "details": (5, "string"),
    },
    "GrpcStatus": {"status": (1, "uint32")},
    "HeaderMutation": {"set_headers": (1, "repeated HeaderValueOption"), "remove_headers": (2, "repeated string")},
    "BodyMutation": {
        "body": (1, "bytes"),
        "clear_body": (2, "bool"),
        "streamed_response": (3, "StreamedBodyResponse"),
    },
    "StreamedBodyResponse": {
        "body": (1, "bytes"),
        "end_of_stream": (2, "bool"),
        "end_of_stream_without_message": (3, "bool"),
        "grpc_message_compressed": (4, "bool"),
    },
}
ENUMS = {
    "HeaderAppendAction": {
        "APPEND_IF_EXISTS_OR_ADD": 0,
        "ADD_IF_ABSENT": 1,
        "OVERWRITE_IF_EXISTS_OR_ADD": 2,
        "OVERWRITE_IF_EXISTS": 3,
    },
    "HeaderSendMode": {"DEFAULT": 0, "SEND": 1, "SKIP": 2},
    "BodySendMode": {
        "NONE": 0,
        "STREAMED": 1,
        "BUFFERED": 2,
        "BUFFERED_PARTIAL": 3,
        "FULL_DUPLEX_STREAMED": 4,
        "GRPC": 5,
    },
    "ResponseStatus": {"CONTINUE": 0, "CONTINUE_AND_REPLACE": 1},
}
ONEOFS = {
    "ProcessingRequest": {"request": set(FIELDS["ProcessingRequest"]) - {"observability_mode", "protocol_config"}},
    "ProcessingResponse": {"response": set(FIELDS["ProcessingResponse"]) - {"mode_override"}},
    "BodyMutation": {"mutation": set(FIELDS["BodyMutation"])},
}
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
