//! Figures out of figures: quantiles of latencies, medians of rounds, ratios within a round.

/// The points of a latency curve, in thousandths of all transactions.
pub(crate) const QUANTILES: [usize; 12] =
    [10, 100, 250, 500, 750, 900, 950, 980, 990, 995, 998, 999];
/// Where the median stands among [`QUANTILES`].
pub(crate) const P50: usize = 3;
/// Where the 99th percentile stands among [`QUANTILES`].
pub(crate) const P99: usize = 8;

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench stay far below 2^52")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// The latency at each of [`QUANTILES`]: the smallest that this share of all does not exceed.
pub(crate) fn quantiles(mut latencies: Vec<u32>) -> Vec<f64> {
    latencies.sort_unstable();
    let rank = |thousandths: usize| (latencies.len() * thousandths).div_ceil(1000).max(1);
    let at = |thousandths| latencies.get(rank(thousandths) - 1).copied().map(f64::from);
    QUANTILES.iter().filter_map(|thousandths| at(*thousandths)).collect()
}

/// Median, smallest and largest of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub(super) median: f64,
    /// The smallest.
    pub(super) min: f64,
    /// The largest.
    pub(super) max: f64,
}

/// The spread of these figures, if there are any.
pub(super) fn spread(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    };
    Some(Spread { median, min, max })
}

/// The median of the ratios of figures of the same round: what drifts during a bench drifts for
/// both, so it falls out. Rounds that one of them lacks count for nothing.
pub(super) fn ratio(own: &[(u32, f64)], base: &[(u32, f64)]) -> Option<Spread> {
    spread(own.iter().filter_map(|(round, figure)| {
        let (_, other) = base.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then(|| figure / other)
    }))
}

#[cfg(test)]
mod tests {
    use super::{P50, P99, QUANTILES, Spread, quantiles, ratio, spread};

    #[test]
    fn quantiles_are_the_latencies_that_a_share_does_not_exceed() {
        let latencies: Vec<u32> = (1..=1000).rev().collect();
        let points = quantiles(latencies);
        assert_eq!(points.len(), QUANTILES.len());
        assert_eq!((points[0], points[P50], points[P99]), (10.0, 500.0, 990.0));
        assert_eq!(points.last(), Some(&999.0));
    }

    #[test]
    fn one_latency_is_every_quantile_and_none_is_no_curve() {
        assert_eq!(quantiles(vec![7]), vec![7.0; QUANTILES.len()]);
        assert_eq!(quantiles(Vec::new()), Vec::<f64>::new());
    }

    #[test]
    fn the_spread_of_figures_is_their_middle_and_ends() {
        let wanted = Spread { median: 2.0, min: 1.0, max: 9.0 };
        assert_eq!(spread([9.0, 1.0, 2.0]), Some(wanted));
        assert_eq!(spread([1.0, 2.0, 4.0, 9.0]).map(|spread| spread.median), Some(3.0));
        assert_eq!(spread([f64::NAN]), None);
    }

    #[test]
    fn a_ratio_compares_within_a_round_only() {
        let own = [(1, 10.0), (2, 30.0), (3, 5.0)];
        let base = [(1, 20.0), (2, 40.0), (4, 1.0)];
        let wanted = Spread { median: 0.625, min: 0.5, max: 0.75 };
        assert_eq!(ratio(&own, &base), Some(wanted));
        assert_eq!(ratio(&own, &[]), None);
    }
}
