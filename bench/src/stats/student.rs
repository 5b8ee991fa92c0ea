//! Student's t distribution, through the incomplete beta function (Abramowitz & Stegun 1964, 26.7.1; the continued fraction is
//! 26.5.8, evaluated by Lentz's method).

/// P(T <= t) with `degrees` degrees of freedom, which are above 0.
pub(super) fn cumulative(t: f64, degrees: f64) -> f64 {
    let tail = 0.5 * incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t));
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// P(|T| >= |t|).
pub(super) fn two_sided(t: f64, degrees: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))
}

/// The t that `probability`, above a half, is below: by bisection, to nine digits.
pub(super) fn quantile(probability: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while cumulative(high, degrees) < probability && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if cumulative(middle, degrees) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function I_x(a, b).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The fraction converges fast on this side of the mean; the other side is its complement.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let safe = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
    let mut product = d;
    for step in 1..300 {
        let m = f64::from(step);
        for numerator in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / safe(1.0 + numerator * d);
            c = safe(1.0 + numerator / c);
            product *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    product
}

/// ln Γ(x) for x > 0: Stirling's series (Abramowitz & Stegun, 6.1.41) after the recurrence has raised x above 10.
fn log_gamma(x: f64) -> f64 {
    let (mut raised, mut product) = (x, 1.0);
    while raised < 10.0 {
        product *= raised;
        raised += 1.0;
    }
    let square = raised * raised;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * square)) / square) / raised;
    (raised - 0.5) * raised.ln() - raised + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_of_the_tables_are_met() {
        // Abramowitz & Stegun, table 26.10.
        for (degrees, probability, t) in [
            (1.0, 0.975, 12.706),
            (3.0, 0.975, 3.182),
            (7.0, 0.995, 3.499),
            (30.0, 0.975, 2.042),
            (3.0, 0.8, 0.978),
        ] {
            assert!((quantile(probability, degrees) - t).abs() < 6e-4, "{degrees} {probability}");
            assert!((cumulative(t, degrees) - probability).abs() < 1e-4);
            assert!((two_sided(-t, degrees) - 2.0 * (1.0 - probability)).abs() < 2e-4);
        }
        assert!((cumulative(0.0, 5.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_gamma_function_is_the_factorial() {
        assert!((log_gamma(11.0) - 3_628_800.0_f64.ln()).abs() < 1e-9);
        assert!((log_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-9);
    }
}
