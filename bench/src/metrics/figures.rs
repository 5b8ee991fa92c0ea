//! Small statistics that several metrics use.

use crate::stats;

/// The coefficient of variation: standard deviation (of a sample) over mean. `None` for fewer than three values or a mean
/// of zero.
pub(super) fn variation(values: &[f64]) -> Option<f64> {
    if values.len() < 3 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean != 0.0).then(|| (squares / (count - 1.0)).sqrt() / mean)
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything (Jain, Chiu and Hawe 1984). `None` for
/// no values, or nothing but zeros.
pub(super) fn jain(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (squares > 0.0).then(|| sum * sum / (values.len() as f64 * squares))
}

/// The geometric mean of positive values. `None` for none, or one that is not positive.
pub(super) fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| *value <= 0.0) {
        return None;
    }
    Some((values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// Slope and intercept of the least-squares line through points x, y. `None` for fewer than two different x.
pub(super) fn line(points: &[[f64; 2]]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|p| p[0]).sum::<f64>() / count;
    let mean_y = points.iter().map(|p| p[1]).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|p| (p[0] - mean_x).powi(2)).sum();
    let both: f64 = points.iter().map(|p| (p[0] - mean_x) * (p[1] - mean_y)).sum();
    (spread > 0.0).then(|| (both / spread, mean_y - both / spread * mean_x))
}

/// The cumulative distribution of `values`, in at most 200 points x, y.
pub(super) fn distribution(values: &[f64]) -> Vec<[f64; 2]> {
    let points = values.len().min(200);
    let at = |n: usize| {
        let q = if points > 1 { n as f64 / (points - 1) as f64 } else { 0.5 };
        stats::quantile(values, q).map(|value| [value, q])
    };
    (0..points).filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equals_and_one_over_n_for_one_who_has_all() {
        assert!((jain(&[2.0, 2.0, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!((jain(&[4.0, 0.0, 0.0, 0.0]).unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(jain(&[0.0]), None);
    }

    #[test]
    fn variation_is_that_of_a_sample_and_has_no_unit() {
        assert!((variation(&[9.0, 10.0, 11.0]).unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(variation(&[1.0, 2.0]), None);
    }

    #[test]
    fn a_line_through_points_on_it_is_found() {
        let (slope, intercept) = line(&[[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]).unwrap();
        assert!((slope - 2.0).abs() < 1e-12 && (intercept - 1.0).abs() < 1e-12);
        assert_eq!(line(&[[1.0, 1.0]]), None);
    }

    #[test]
    fn a_geometric_mean_of_ratios_treats_half_and_double_alike() {
        assert!((geometric_mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
    }

    #[test]
    fn a_distribution_ends_at_the_largest_value() {
        let values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let points = distribution(&values);
        assert_eq!(points.len(), 200);
        assert_eq!(points.last().unwrap(), &[999.0, 1.0]);
    }
}
