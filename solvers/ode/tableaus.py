"""Embedded Runge-Kutta methods as tables of coefficients.

A step `h` of `dy/ds = F(s, y)` from `y_0` evaluates slopes `k_0 = F(s, y_0)` and

    k_i = F(s + c_i h, y_0 + h sum_{j < i} a_ij k_j),        c_i = sum_j a_ij.

The last row of `a` holds the weights of the solution, so the last slope is the first one of the next step. A second
set of weights gives a solution of lower order; the difference of the two estimates the error. Names are torchdiffeq's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """Coefficients of one method.

    Attributes:
        order: order of the solution.
        rows: `a_1j, a_2j, …`, of growing lengths; the last row is the solution's weights.
        embedded: weights of the lower order solution, one for each slope.
    """

    order: int
    rows: tuple[tuple[float, ...], ...]
    embedded: tuple[float, ...]

    @property
    def nodes(self) -> tuple[float, ...]:
        """The nodes are `c_1, c_2, …`, each the sum of its row; the last is 1."""
        return (*(sum(row) for row in self.rows[:-1]), 1.0)

    @property
    def error(self) -> tuple[float, ...]:
        """The error estimate has these weights, one for each slope: the solution's less the embedded ones."""
        return tuple(b - e for b, e in zip((*self.rows[-1], 0.0), self.embedded, strict=True))


TABLEAUS = {
    # Dormand & Prince 1980, with the error weights of Shampine 1986.
    "dopri5": Tableau(
        order=5,
        rows=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        embedded=(1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60),
    ),
    # Prince & Dormand 1981, RK8(7)13M.
    "dopri8": Tableau(
        order=8,
        rows=(
            (1 / 18,),
            (1 / 48, 1 / 16),
            (1 / 32, 0, 3 / 32),
            (5 / 16, 0, -75 / 64, 75 / 64),
            (3 / 80, 0, 0, 3 / 16, 3 / 20),
            (
                *(29443841 / 614563906, 0, 0, 77736538 / 692538347, -28693883 / 1125000000),
                23124283 / 1800000000,
            ),
            (
                *(16016141 / 946692911, 0, 0, 61564180 / 158732637, 22789713 / 633445777, 545815736 / 2771057229),
                -180193667 / 1043307555,
            ),
            (
                *(39632708 / 573591083, 0, 0, -433636366 / 683701615, -421739975 / 2616292301),
                *(100302831 / 723423059, 790204164 / 839813087, 800635310 / 3783071287),
            ),
            (
                *(246121993 / 1340847787, 0, 0, -37695042795 / 15268766246, -309121744 / 1061227803),
                *(-12992083 / 490766935, 6005943493 / 2108947869, 393006217 / 1396673457, 123872331 / 1001029789),
            ),
            (
                *(-1028468189 / 846180014, 0, 0, 8478235783 / 508512852, 1311729495 / 1432422823),
                *(-10304129995 / 1701304382, -48777925059 / 3047939560, 15336726248 / 1032824649),
                *(-45442868181 / 3398467696, 3065993473 / 597172653),
            ),
            (
                *(185892177 / 718116043, 0, 0, -3185094517 / 667107341, -477755414 / 1098053517),
                *(-703635378 / 230739211, 5731566787 / 1027545527, 5232866602 / 850066563),
                *(-4093664535 / 808688257, 3962137247 / 1805957418, 65686358 / 487910083),
            ),
            (
                *(403863854 / 491063109, 0, 0, -5068492393 / 434740067, -411421997 / 543043805),
                *(652783627 / 914296604, 11173962825 / 925320556, -13158990841 / 6184727034),
                *(3936647629 / 1978049680, -160528059 / 685178525, 248638103 / 1413531060, 0),
            ),
            (
                *(14005451 / 335480064, 0, 0, 0, 0, -59238493 / 1068277825, 181606767 / 758867731),
                *(561292985 / 797845732, -1041891430 / 1371343529, 760417239 / 1151165299),
                *(118820643 / 751138087, -528747749 / 2220607170, 1 / 4),
            ),
        ),
        embedded=(
            *(13451932 / 455176623, 0, 0, 0, 0, -808719846 / 976000145, 1757004468 / 5645159321),
            *(656045339 / 265891186, -3867574721 / 1518517206, 465885868 / 322736535),
            *(53011238 / 667516719, 2 / 45, 0, 0),
        ),
    ),
    # Bogacki & Shampine 1989.
    "bosh3": Tableau(
        order=3,
        rows=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    ),
    # Heun's method with Euler's in it.
    "adaptive_heun": Tableau(order=2, rows=((1,), (1 / 2, 1 / 2)), embedded=(1, 0, 0)),
    # Fehlberg 1969, RK1(2).
    "fehlberg2": Tableau(
        order=2,
        rows=((1 / 2,), (1 / 256, 255 / 256), (1 / 512, 255 / 256, 1 / 512)),
        embedded=(1 / 256, 255 / 256, 0, 0),
    ),
}
