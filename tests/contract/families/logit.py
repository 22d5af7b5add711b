from tests.contract.entries import Case

CASES = {
    "msp": Case("msp"),
    "max_logit": Case("max_logit"),
    "energy": Case("energy"),
    "energy_warm": Case("energy", {"temperature": 3.0}),
    "entropy": Case("entropy"),
    "msp_warm": Case("msp", {"temperature": 1.7}),
    "max_sup": Case("max_sup"),
    "margin": Case("margin"),
    "margin_of_probabilities": Case("margin", {"by": "probabilities"}),
    "gen": Case("gen"),
    "gen_flat": Case("gen", {"gamma": 0.5}),
    "gen_top": Case("gen", {"top": 3}),
    "doctor": Case("doctor"),
    "doctor_beta": Case("doctor", {"by": "beta"}),
    "odin": Case("odin"),
    "odin_sharp": Case("odin", {"temperature": 2.0}),
    "kl_matching": Case("kl_matching"),
    "weighted_energy": Case("weighted_energy"),
    "weighted_energy_given": Case("weighted_energy", {"weights": [1, 2, 3, 4, 0.5, 0.1, 7]}),
}
