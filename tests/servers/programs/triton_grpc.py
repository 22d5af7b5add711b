"""`tritonclient.grpc` as people use it: `python triton_grpc.py ADDRESS MODEL IMAGES.npy WAY`. Prints what the server said."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, model, path, way = sys.argv[1:]
images = np.load(path)
with triton.InferenceServerClient(address) as client:
    print(client.is_server_live(), client.is_server_ready(), client.is_model_ready(model) if way != "unknown" else "")
    print(json.dumps(client.get_server_metadata(as_json=True), sort_keys=True))
    for start in range(0, len(images), 4):
        part = images[start : start + 4, : 3 if way == "malformed" else None]
        tensor = triton.InferInput("image", list(part.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(part))
        asked = [triton.InferRequestedOutput("predict")] if way == "named" else None
        compression = "gzip" if way == "compressed" else None
        try:
            answer = client.infer(
                model,
                [tensor],
                outputs=asked,
                request_id=f"r{start}",
                client_timeout=20,
                compression_algorithm=compression,
            )
        except InferenceServerException as error:
            print("error", error.status(), error.message())
            continue
        said = answer.get_response()
        outputs = {o.name: [o.datatype, list(o.shape), answer.as_numpy(o.name).tolist()] for o in said.outputs}
        print(said.id, said.model_name, said.model_version, sorted(said.parameters), json.dumps(outputs))
