"""Measure maps between cameras on spectra: closed forms, reflectances and lights held out.

    python tests/bench/transfer_table.py              # every pair of the 44 cameras of one laboratory: two minutes
    python tests/bench/transfer_table.py --every 40   # every 40th pair
    python tests/bench/transfer_table.py --pairs DATASET --weights FILE --weights FILE   # networks, on simulated shots

Half of the reflectances and the fitted lights serve the fits. The other half is measured under lights between the
fitted ones, and under models of fluorescent lamps and of LEDs. White's G is 1 in both cameras. PSNR (peak 1) is the
mean over lights and pairs (worst pair); then the mean absolute error and the mean angle between the colours. With
--pairs, closed forms and networks on the test shots of a data set of `simulate --spectral`, as `paramisp evaluate`
measures them; then for each network both ways, and how far half the light gives half the values. The tables in
docs/transfer.md are its results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from paramisp_cli import cameras, color
from paramisp_cli.cameras import spectra
from paramisp_cli.errors import WeightsError

LABORATORY = "Weta Digital"
"""Laboratory that measured most cameras: sensitivities of two laboratories differ by more than some cameras do."""
KINDS = ("held-out", "fluorescent", "led")

Guess = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(A's RGB (n, 3), A's neutral, B's neutral, B's RGB of the fitting half under this light, A's) → B's RGB (n, 3)."""


def matrix_of(sensitivity: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
    """Return XYZ → camera for D65: the inverse of the best map from balanced RGB to XYZ that preserves white."""
    light = spectra.daylight(6504)
    white = spectra.neutral(sensitivity, light)
    balanced = spectra.response(surfaces, sensitivity, light) / white
    weights = spectra.observer() * light[:, None]
    xyz = surfaces @ (weights / weights[:, 1].sum())
    top = weights.sum(0) / weights[:, 1].sum()
    rest = np.linalg.lstsq(balanced[:, 1:] - balanced[:, :1], xyz - balanced[:, :1] * top, rcond=None)[0].T
    to_xyz = np.concatenate([(top - rest.sum(1))[:, None], rest], 1)
    return np.linalg.inv(to_xyz) * white[:, None]


def methods(a: spectra.Sensor, b: spectra.Sensor, surfaces: np.ndarray) -> dict[str, Guess]:
    """Return the methods by name, fitted for one pair to the fitting half of the surfaces."""
    under = list(spectra.lights("fitted").values())
    light_matrix = spectra.fit(a.sensitivity, b.sensitivity, surfaces, under, roots=False)
    light_roots = spectra.fit(a.sensitivity, b.sensitivity, surfaces, under)
    m_a, m_b = (matrix_of(each.sensitivity, surfaces) for each in (a, b))
    own_a, own_b = (cameras.find_by_name(each.name) for each in (a, b))
    assert own_a is not None
    assert own_b is not None
    together = [
        np.concatenate([spectra.response(surfaces, each.sensitivity, light) for light in under]) for each in (a, b)
    ]
    one_matrix = np.linalg.lstsq(*together, rcond=None)[0]

    def known(x: np.ndarray, n_a: np.ndarray, n_b: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return x / n_a @ color.cam_to_cam(m_a, m_b).T * n_b

    def predicted(x: np.ndarray, n_a: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return x / n_a @ color.cam_to_cam(m_a, m_b).T * light_roots.at(n_a)[1]

    def shipped(x: np.ndarray, n_a: np.ndarray, *_: np.ndarray) -> np.ndarray:
        table_a, table_b = own_a.color_matrix, own_b.color_matrix
        return x / n_a @ color.cam_to_cam(table_a, table_b).T * color.neutral_of_other(n_a, table_a, table_b)

    def listed(x: np.ndarray, n_a: np.ndarray, n_b: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return x / n_a @ color.cam_to_cam(own_a.color_matrix, own_b.color_matrix).T * n_b

    def conditioned(fit: spectra.Fit) -> Guess:
        def guess(x: np.ndarray, n_a: np.ndarray, *_: np.ndarray) -> np.ndarray:
            coefficients, n_b, _ = fit.at(n_a)
            terms = spectra.root_terms(x / n_a) if coefficients.shape[1] == 6 else x / n_a
            return terms @ coefficients.T * n_b

        return guess

    def chart(x: np.ndarray, n_a: np.ndarray, n_b: np.ndarray, seen_b: np.ndarray, seen_a: np.ndarray) -> np.ndarray:
        return spectra.root_terms(x) @ np.linalg.lstsq(spectra.root_terms(seen_a), seen_b, rcond=None)[0]

    return {
        "nothing": lambda x, *_: x,
        "diagonal, both neutrals known": lambda x, n_a, n_b, *_: x / n_a * n_b,
        "**matrix route**, fitted D65 matrices, both neutrals known": known,
        "the same, B's neutral predicted": predicted,
        "matrix route, matrices of the camera table, both neutrals known": listed,
        "matrix route as `transfer` runs it: matrices of the camera table, neutral predicted by them": shipped,
        "one 3×3 for all light": lambda x, *_: x @ one_matrix,
        "3×3 that depends on A's neutral": conditioned(light_matrix),
        "**root-polynomial that depends on A's neutral** (`--method conditioned`)": conditioned(light_roots),
        "root-polynomial fitted under each light (a chart in every picture)": chart,
    }


def angle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the angle [°] between colours (n, 3)."""
    cosine = (x * y).sum(-1) / np.maximum(np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1), 1e-12)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def pairs(every: int = 1) -> list[tuple[spectra.Sensor, spectra.Sensor]]:
    """Return every n-th ordered pair of the laboratory's cameras that the camera table knows, too."""
    own = [each for each in spectra.sensors() if each.laboratory == LABORATORY]
    known = [each for each in own if (facts := cameras.find_by_name(each.name)) and facts.color_matrix is not None]
    return list(permutations(known, 2))[::every]


def measure(some: Sequence[tuple[spectra.Sensor, spectra.Sensor]]) -> dict[str, dict[str, np.ndarray]]:
    """Return method → kind of light → (pairs, 3): PSNR, mean absolute error, mean angle of each pair."""
    surfaces_and_tested = spectra.reflectances()[np.random.default_rng(0).permutation(len(spectra.reflectances()))]
    surfaces, tested = surfaces_and_tested[::2], surfaces_and_tested[1::2]
    found: dict[str, dict[str, list[list[float]]]] = {}
    for a, b in some:
        for name, guess in methods(a, b, surfaces).items():
            for kind in KINDS:
                decibels, absolute, angles = [], [], []
                for light in spectra.lights(kind).values():
                    x, y = (spectra.response(tested, each.sensitivity, light) for each in (a, b))
                    seen_a, seen_b = (spectra.response(surfaces, each.sensitivity, light) for each in (a, b))
                    whites = [spectra.neutral(each.sensitivity, light) for each in (a, b)]
                    z = guess(x, *whites, seen_b, seen_a)
                    decibels.append(-10 * np.log10(((z - y) ** 2).mean()))
                    absolute.append(np.abs(z - y).mean())
                    angles.append(angle(z, y).mean())
                row = [float(np.mean(each)) for each in (decibels, absolute, angles)]
                found.setdefault(name, {}).setdefault(kind, []).append(row)
    return {name: {kind: np.array(rows) for kind, rows in kinds.items()} for name, kinds in found.items()}


def presets() -> dict[str, np.ndarray]:
    """Return way of prediction → mean error (2,) of B's R/G and B/G, |ln|, on the cameras' own daylight presets.

    The presets are real: makers set them. Pairs are of one laboratory and of presets with the same name.
    """
    known = [(each, facts) for each in spectra.sensors() if (facts := cameras.find_by_name(each.name)) is not None]
    known = [(each, facts) for each, facts in known if facts.color_matrix is not None]
    known = [(each, facts) for each, facts in known if "matrix" not in facts.daylight_origin]
    found: dict[str, list[np.ndarray]] = {}
    for (one, facts_a), (other, facts_b) in permutations(known, 2):
        own, wanted = facts_a.daylight_neutral, facts_b.daylight_neutral
        if one.laboratory == other.laboratory and facts_a.daylight_origin == facts_b.daylight_origin:
            guesses = {
                "the same neutral": own,
                "by the matrices (`matrix`)": color.neutral_of_other(own, facts_a.color_matrix, facts_b.color_matrix),
                "by the sensitivities (`conditioned`)": spectra.fitted(one.name, other.name).at(own)[1],
            }
            for name, guess in guesses.items():
                found.setdefault(name, []).append(np.abs(np.log(guess / wanted))[[0, 2]])
    return {name: np.mean(errors, 0) for name, errors in found.items()}


def of_shots(dataset: str, files: Sequence[str]) -> str:
    """Return the table of closed forms and networks on simulated shots, and sentences on the networks."""
    from paramisp_cli.training import transfer
    from paramisp_cli.training.transfer.shots import psnr

    lines = [transfer.table(transfer.evaluate(dataset, files))]
    data = transfer.load_data(dataset)
    back = transfer.load_data(dataset, data.series.b, data.series.a)
    for path in files:
        for way in (data, back):
            try:
                model = transfer.load(path, way.series)
            except WeightsError:
                continue  # it maps one way
            shown = way.pixels(transfer.split(way.shots)[2])
            whole, half = (transfer.predicted(model, replace(shown, a=gain * shown.a)) for gain in (1, 0.5))
            lines.append(
                f"{path}, {way.series.a} to {way.series.b}: {psnr(whole, shown.b):.1f} dB; half the light gives half "
                f"the values within {psnr(2 * half, whole):.1f} dB"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="measure every n-th pair")
    parser.add_argument("--pairs", help="data set of `simulate --spectral`, for networks")
    parser.add_argument("--weights", action="append", default=[], help="a network's weights; may be repeated")
    options = parser.parse_args()
    if options.pairs:
        print(of_shots(options.pairs, options.weights))
        return
    some = pairs(options.every)
    print(f"{len(some)} pairs\n")
    print("| method | held-out daylight and bulbs: PSNR (worst pair), MAE, angle | fluorescent | LED |")
    print("|---|---|---|---|")
    for name, kinds in measure(some).items():
        own = kinds["held-out"]
        cells = [f"{own[:, 0].mean():.1f} ({own[:, 0].min():.1f}), {own[:, 1].mean():.4f}, {own[:, 2].mean():.2f}°"]
        cells += [f"{kinds[kind][:, 0].mean():.1f}" for kind in KINDS[1:]]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, (red, blue) in presets().items():
        print(f"daylight presets, {name}: {red:.1%} in R/G, {blue:.1%} in B/G")


if __name__ == "__main__":
    main()
