from tests.contract.entries import Case, permuted

HEAD = "linear_head"


def shaped(*transforms, score="energy", **limits):
    return Case("shaped", {"transforms": list(transforms), "score": score}, **limits)


CASES = {
    "vra_energy": shaped({"vra": {"q_low": 0.3, "q_high": 0.8}}, HEAD, far=permuted),
    "vra_each_energy": shaped({"vra": {"q_low": 0.3, "q_high": 0.8, "per": "dimension"}}, HEAD, far=permuted),
    "vra_plus_energy": shaped({"vra_plus": {"q_low": 0.3, "q_high": 0.8}}, HEAD, far=permuted),
    "vra_openood_clip_energy": shaped("vra_openood_clip", HEAD, far=permuted),
    "dice_energy": shaped({"dice": {"percentile": 50}}, far=permuted),
    "ash_p_energy": shaped({"ash_p": {"percentile": 40}}, HEAD, far=permuted),
    "ash_b_energy": shaped({"ash_b": {"percentile": 40}}, HEAD, far=permuted),
    "ash_s_energy": shaped({"ash_s": {"percentile": 40}}, HEAD, far=permuted),
    "scale_energy": shaped({"scale": {"percentile": 40}}, HEAD, far=permuted),
    "lts_energy": shaped({"lts": {"percentile": 70}}, far=permuted),
    "t2fnorm_energy": shaped({"t2fnorm": {"temperature": 0.5}}, far=permuted),
    "standardised_mahalanobis": shaped("standardise", score="mahalanobis"),
}
