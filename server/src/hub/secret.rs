//! A secret in memory: never printed, compared in constant time.

use std::fmt;

/// A secret text. `Debug` shows that there is one, not what it is; there is no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that must show or send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same text; the time taken depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        let (mine, theirs) = (self.0.as_bytes(), other.as_bytes());
        if mine.is_empty() || mine.len() != theirs.len() {
            return false;
        }
        mine.iter().zip(theirs).fold(0u8, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("rpt_0123");
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("0123"));
    }

    #[test]
    fn only_the_same_text_matches_and_an_empty_secret_matches_nothing() {
        assert!(Secret::new("abc").matches("abc"));
        for other in ["", "ab", "abd", "abcd"] {
            assert!(!Secret::new("abc").matches(other), "{other}");
        }
        assert!(!Secret::new("").matches(""));
    }
}
