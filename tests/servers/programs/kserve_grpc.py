"""KServe's gRPC client: `python kserve_grpc.py ADDRESS MODEL IMAGES.npy WAY`. Prints what the server said."""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

address, model, path, way = sys.argv[1:]
images = np.load(path)
logging.disable()


async def main():
    async with InferenceGRPCClient(address, timeout=20) as client:
        print(await client.is_server_live(), await client.is_server_ready())
        for start in range(0, len(images), 4):
            part = np.ascontiguousarray(images[start : start + 4, : 3 if way == "malformed" else None])
            tensor = InferInput("image", list(part.shape), "FP32")
            if way == "typed":
                tensor = InferInput("image", list(part.shape), "FP32", data=part.ravel().tolist())
            else:
                tensor.set_data_from_numpy(part, binary_data=True)
            asked = [RequestedOutput("predict")] if way in ("named", "typed") else None
            try:
                said = await client.infer(InferRequest(model, [tensor], request_id=f"r{start}", request_outputs=asked))
            except grpc.RpcError as error:
                print("error", error.code(), error.details())
                continue
            outputs = {o.name: [o.datatype, list(o.shape), o.as_numpy().tolist()] for o in said.outputs}
            print(said.id, said.model_name, said.model_version, sorted(said.parameters), json.dumps(outputs))


asyncio.run(main())
