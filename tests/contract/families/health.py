from tests.contract.entries import Case, healthy, spiked

ON_ACTIVATIONS = {"transforms": [{"select": {"signal": "activations"}}], "score": "saturation"}
CASES = {
    "activation_kurtosis": Case("activation_kurtosis", ordinary=healthy, far=spiked),
    "massive_activation": Case("massive_activation", ordinary=healthy, far=spiked),
    "massive_activation_row": Case("massive_activation", {"against": "row"}, ordinary=healthy, far=spiked),
    "outlier_dimensions": Case("outlier_dimensions", ordinary=healthy, far=spiked),
    "llm_int8": Case("llm_int8", ordinary=healthy, far=spiked),
    "attention_sink": Case("attention_sink", ordinary=healthy, far=spiked),
    "saturation": Case("saturation", ordinary=healthy, far=spiked),
    "saturation_of_activations": Case("shaped", ON_ACTIVATIONS, ordinary=healthy, far=spiked),
}
