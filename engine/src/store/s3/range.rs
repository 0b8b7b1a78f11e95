//! The part of an object that a GET asks for, and the part that an answer says it has (RFC 9110, §14).
//!
//! Invariant: an answer counts only if it has the part that was asked for; a shorter one only where the object ends.

use std::fmt;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Range {
    /// From a byte to before another, further on.
    At {
        /// The first.
        offset: u64,
        /// The one after the last.
        end: u64,
    },
    /// This many bytes at the end, at least one.
    Tail(u64),
}

/// What a `Content-Range` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    first: u64,
    last: u64,
    /// Size of the object.
    pub(super) total: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::At { offset, end } => write!(f, "bytes={offset}-{}", end - 1),
            Range::Tail(len) => write!(f, "bytes=-{len}"),
        }
    }
}

impl Range {
    /// Whether that is the part, as far as the object has it.
    pub(super) fn is_met_by(&self, span: &Span) -> bool {
        match *self {
            Range::At { offset, end } => span.first == offset && span.last + 1 == end.min(span.total),
            Range::Tail(len) => span.first == span.total.saturating_sub(len) && span.last + 1 == span.total,
        }
    }
}

impl Span {
    /// `bytes 0-99/1234`; `None` if it is anything else.
    pub(super) fn parse(text: &str) -> Option<Span> {
        let (span, total) = text.trim().strip_prefix("bytes")?.trim().rsplit_once('/')?;
        let (first, last) = span.split_once('-')?;
        let span = Span { first: first.parse().ok()?, last: last.parse().ok()?, total: total.parse().ok()? };
        (span.first <= span.last && span.last < span.total).then_some(span)
    }

    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_part_that_was_asked_for_is_taken() {
        let span = |text| Span::parse(text).unwrap();
        let range = Range::At { offset: 10, end: 20 };
        assert_eq!(range.to_string(), "bytes=10-19");
        assert!(range.is_met_by(&span("bytes 10-19/100")) && range.is_met_by(&span("bytes 10-14/15")));
        for other in ["bytes 0-9/100", "bytes 10-18/100", "bytes 10-20/100", "bytes 0-99/100", "bytes 9-19/100"] {
            assert!(!range.is_met_by(&span(other)), "{other}");
        }
        let tail = Range::Tail(10);
        assert_eq!(tail.to_string(), "bytes=-10");
        assert!(tail.is_met_by(&span("bytes 90-99/100")) && tail.is_met_by(&span("bytes 0-4/5")));
        for other in ["bytes 0-9/100", "bytes 90-98/100", "bytes 0-99/100", "bytes 91-99/100"] {
            assert!(!tail.is_met_by(&span(other)), "{other}");
        }
        for text in ["", "bytes */100", "bytes 5-4/100", "bytes 0-100/100", "bytes 0-9/*", "lines 0-9/10", "bytes 0-9"]
        {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
