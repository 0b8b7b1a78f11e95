//! Sorting times and printing one line per figure.

use std::time::Duration;

/// Times of many equal steps.
pub struct Times(Vec<Duration>);

impl Times {
    /// Takes them in any order; at least one.
    pub fn new(mut times: Vec<Duration>) -> Times {
        assert!(!times.is_empty());
        times.sort_unstable();
        Times(times)
    }

    /// The value below which this share (0..=1) lies.
    pub fn at(&self, share: f64) -> Duration {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }

    /// `p50 1.23 ms, p99 4.56 ms of 300`.
    pub fn text(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms of {}",
            milliseconds(self.at(0.5)),
            milliseconds(self.at(0.99)),
            self.0.len()
        )
    }
}

/// Milliseconds with fractions.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The median of some rates.
pub fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// One figure.
pub fn print(name: &str, value: &str) {
    println!("{name:<44} {value}");
}
