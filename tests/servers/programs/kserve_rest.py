"""KServe's REST client: `python kserve_rest.py ADDRESS MODEL IMAGES.npy WAY`. Prints what the server said."""

import asyncio
import json
import logging
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

address, model, path, way = sys.argv[1:]
images, binary = np.load(path), "binary" in way
logging.disable()


async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=20))
    where = f"http://{address}"
    for start in range(0, len(images), 4):
        part = np.ascontiguousarray(images[start : start + 4, : 3 if way == "malformed" else None])
        tensor = InferInput("image", list(part.shape), "FP32")
        tensor.set_data_from_numpy(part, binary_data=binary)
        asked = [RequestedOutput("predict", {"binary_data": binary})] if "named" in way else None
        request = InferRequest(
            model, [tensor], request_id=f"r{start}", request_outputs=asked, parameters={"binary_data_output": binary}
        )
        try:
            said = await client.infer(where, request, model_name=model)
        except httpx.HTTPStatusError as error:
            print("error", error.response.status_code, error.response.text)
            continue
        outputs = {o.name: [o.datatype, list(o.shape), o.as_numpy().tolist()] for o in said.outputs}
        print(said.id, said.model_name, said.model_version, json.dumps(said.parameters), json.dumps(outputs))


asyncio.run(main())
