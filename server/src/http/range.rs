//! `Range`, `If-Range`, `If-Match` and `If-None-Match` for immutable bytes (RFC 9110 §13, §14).
//!
//! Invariants: one range or all of it; a header that is not understood is ignored, as the RFC wants; a strong ETag only.

use std::ops::Range;

use axum::http::{HeaderMap, StatusCode, header, response::Builder};

/// Which bytes are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// All.
    All,
    /// These; never empty.
    Part(Range<u64>),
    /// A range beyond the end (416).
    Nothing,
}

/// Whether the client has this version already.
pub fn not_modified(headers: &HeaderMap, etag: &str) -> bool {
    let tags = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Whether the client wants another version only (412).
pub fn is_another(headers: &HeaderMap, etag: &str) -> bool {
    let Some(tags) = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()) else { return false };
    !tags.split(',').map(str::trim).any(|tag| tag == "*" || tag == etag)
}

/// The range of `len` bytes that the headers ask for.
pub fn wanted(headers: &HeaderMap, len: u64, etag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|condition| condition != etag) {
        return Wanted::All;
    }
    let Some((first, last)) = text(header::RANGE)
        .and_then(|range| range.strip_prefix("bytes="))
        .filter(|range| !range.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let part = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => return Wanted::All,
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(len),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..len,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => len.saturating_sub(suffix)..len,
        _ => return Wanted::All,
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::Nothing }
}

/// The head of the answer with what is wanted of `len` bytes, and which they are.
///
/// Errors: the head of the answer without a body, if that is nothing (416).
pub fn ranged(answer: Builder, wanted: Wanted, len: u64) -> Result<(Builder, Range<u64>), Builder> {
    match wanted {
        Wanted::All => Ok((answer, 0..len)),
        Wanted::Part(part) => {
            let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            Ok((answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range), part))
        }
        Wanted::Nothing => {
            let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
            Err(answer.header(header::CONTENT_RANGE, format!("bytes */{len}")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn check(range: &str, expected: Wanted) {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        assert_eq!(wanted(&headers, 100, "\"x\""), expected, "{range}");
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        check("bytes=0-9", Wanted::Part(0..10));
        check("bytes=90-", Wanted::Part(90..100));
        check("bytes=90-1000", Wanted::Part(90..100));
        check("bytes=-10", Wanted::Part(90..100));
        check("bytes=-1000", Wanted::Part(0..100));
        check("bytes=100-", Wanted::Nothing);
        check("bytes=-0", Wanted::Nothing);
        for ignored in ["bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b", "bytes=-"] {
            check(ignored, Wanted::All);
        }
    }

    #[test]
    fn an_older_version_gets_all_and_the_same_version_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-9".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"y\"".parse().unwrap());
        assert_eq!(wanted(&headers, 100, "\"x\""), Wanted::All);
        headers.insert(header::IF_NONE_MATCH, "\"a\", W/\"x\"".parse().unwrap());
        assert!(not_modified(&headers, "\"x\"") && !not_modified(&headers, "\"z\""));
        assert!(!is_another(&headers, "\"x\""));
        headers.insert(header::IF_MATCH, "\"a\", \"x\"".parse().unwrap());
        assert!(!is_another(&headers, "\"x\"") && is_another(&headers, "\"z\""));
    }
}
