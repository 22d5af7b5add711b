"""`tritonclient.http` as people use it: `python triton_http.py ADDRESS MODEL IMAGES.npy WAY`. Prints what the server said."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, path, way = sys.argv[1:]
images, binary = np.load(path), "binary" in way
with triton.InferenceServerClient(address, network_timeout=20) as client:
    print(client.is_server_live(), client.is_server_ready(), client.is_model_ready(model) if way != "unknown" else "")
    print(json.dumps(client.get_server_metadata(), sort_keys=True))
    for start in range(0, len(images), 4):
        part = images[start : start + 4, : 3 if way == "malformed" else None]
        tensor = triton.InferInput("image", list(part.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(part), binary_data=binary)
        asked = [triton.InferRequestedOutput("predict", binary_data=binary)] if "named" in way else None
        asked = asked or (
            None if binary else [triton.InferRequestedOutput(n, binary_data=False) for n in ("logits", "predict")]
        )
        packed = "gzip" if "compressed" in way else None
        try:
            answer = client.infer(
                model,
                [tensor],
                outputs=asked,
                request_id=f"r{start}",
                request_compression_algorithm=packed,
                response_compression_algorithm=packed,
                headers={"Content-Type": "application/octet-stream"} if binary else None,  # KServe asks for it
            )
        except InferenceServerException as error:
            print("error", error.status(), error.message())
            continue
        said = answer.get_response()
        named = [o["name"] for o in said["outputs"]]
        print(json.dumps([said, {n: answer.as_numpy(n).tolist() for n in named}]))
