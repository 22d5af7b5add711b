"""Streaming inference with MLServer's own stubs: `python mlserver_stream.py ADDRESS MODEL IMAGES.npy WAY`."""

import json
import sys

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

address, model, path, way = sys.argv[1:]
images = np.load(path)


def requests():
    for start in range(0, len(images), 4):
        part = np.ascontiguousarray(images[start : start + 4, : 3 if way == "malformed" else None])
        message = pb.ModelInferRequest(model_name=model, id=f"s{start}", raw_input_contents=[part.tobytes()])
        message.inputs.add(name="image", datatype="FP32", shape=part.shape)
        if way == "named":
            message.outputs.add(name="predict")
        yield message


with grpc.insecure_channel(address) as channel:
    try:
        for said in GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=20):
            outputs = [(o.name, o.datatype, list(o.shape)) for o in said.outputs]
            print(
                said.id, sorted(said.parameters), json.dumps(outputs), [raw.hex() for raw in said.raw_output_contents]
            )
    except grpc.RpcError as error:
        print("error", error.code(), error.details())
