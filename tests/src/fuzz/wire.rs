//! Request bodies: the index of each msgpack endpoint, records, JSON to msgpack.
//!
//! The promise: the answer does not depend on how the bytes arrive; spans lie inside the body and counts within their caps; a
//! record means the same to the server and to the client model; JSON becomes the msgpack of the same value, as long as
//! measured.

use std::io::{self, BufRead, Read};

use reprise_engine::object::json;
use reprise_server::wire::{
    Field, Source, WireError,
    requests::{self, PushCaps, Span},
    transcode,
    value::value_of,
};
use serde_json::{Number, Value as Json};

use super::{record, split};
use crate::client::{Value, ids};

pub(super) fn request(input: &[u8]) {
    let (which, body) = split(input);
    let (whole, trickled) = (index(which, body, body), index(which, Trickle(body), body));
    assert_eq!(whole, trickled, "in one piece, and in small ones");
}

/// What one endpoint makes of a body, as text.
fn index<S: Source>(which: u8, source: S, body: &[u8]) -> String {
    let answer = match which % 4 {
        0 => requests::object_ids(source, CAP).map(|ids| {
            assert!(ids.len() <= CAP);
            format!("{ids:?}")
        }),
        1 => requests::want_have(source, CAP, CAP).map(|(want, have)| {
            assert!(want.len() <= CAP && have.len() <= CAP);
            format!("{want:?} {have:?}")
        }),
        2 => requests::objects(source, &CAPS).map(|objects| {
            assert!(objects.len() <= CAP);
            objects.iter().for_each(|object| check_span(object.content, CAPS.blob_bytes, body));
            format!("{objects:?}")
        }),
        _ => requests::push(source, &CAPS).map(|push| {
            assert!(push.commits.len() <= CAP && push.snapshots.len() <= CAP && push.objects.len() <= CAP);
            push.commits.iter().for_each(|span| check_record(*span, body));
            push.snapshots.iter().for_each(|snapshot| check_record(snapshot.record, body));
            push.objects.iter().for_each(|object| check_span(object.content, CAPS.blob_bytes, body));
            format!("{push:?}")
        }),
    };
    answer.unwrap_or_else(|error| {
        assert!(!matches!(error, WireError::Io(_)), "bytes in memory do not fail: {error}");
        error.to_string()
    })
}

fn check_span(span: Span, cap: u64, body: &[u8]) {
    assert!(u64::from(span.len) <= cap && span.offset + u64::from(span.len) <= body.len() as u64, "{span:?}");
}

/// A record's span is one whole value: reading it never ends early and leaves nothing over.
fn check_record(span: Span, body: &[u8]) {
    check_span(span, CAPS.record_bytes, body);
    let start = usize::try_from(span.offset).expect("a small body");
    let end = start + usize::try_from(span.len).expect("a small body");
    if let Err(WireError::Malformed(text)) = value_of(&body[start..end], &Field::root("record")) {
        assert!(text.contains("0xc1"), "{text}");
    }
}

pub(super) fn value(input: &[u8]) {
    let Ok(value) = value_of(input, &Field::root("record")) else { return };
    let client = Value::decode(input).expect("the client reads what the server reads");
    assert_eq!(json_of(&client).as_ref(), Some(&value), "the server and the client mean the same");
    let canonical = json::to_canonical(&value).expect("what was taken in can be stored");
    let mut out = Vec::new();
    transcode::append(&canonical, &mut out).expect("what is stored can be sent");
    assert_eq!(transcode::wire_len(&canonical).expect("measured"), out.len() as u64);
    assert_eq!(value_of(&out, &Field::root("record")).expect("what is sent can be taken in"), value);
}

fn json_of(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::Number(Number::from_i128(*value)?),
        Value::Float(value) => Json::Number(Number::from_f64(*value)?),
        Value::Str(text) => Json::String(text.clone()),
        Value::Array(items) => Json::Array(items.iter().map(json_of).collect::<Option<_>>()?),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| Some((key.as_str()?.to_owned(), json_of(value)?));
            Json::Object(pairs.iter().map(pair).collect::<Option<_>>()?)
        }
        Value::Bin(_) | Value::Ext(..) => return None,
    })
}

pub(super) fn transcode(input: &[u8]) {
    let mut out = vec![0xee; 3];
    let measured = transcode::measure(input);
    let expected = serde_json::from_slice::<Json>(input);
    let Ok(measure) = measured else {
        let error = measured.expect_err("it is one").to_string();
        // What we refuse and another reader takes: depth, and integers that it would bend into floats.
        let bent = error.contains("an integer of 64 bits") && has_long_integer(input);
        assert!(expected.is_err() || bent || error.contains("nested deeper"), "{error}");
        return;
    };
    transcode::write(input, &measure, &mut out).expect("what was measured can be written");
    assert_eq!(out.len() as u64, measure.len + 3, "as long as measured");
    let expected = expected.expect("what is taken for JSON is JSON");
    match value_of(&out[3..], &Field::root("record")) {
        Ok(value) => assert_eq!(value, expected, "the same value"),
        Err(error) => {
            let known = ["stands twice", "U+0000", "nested deeper"];
            assert!(known.iter().any(|why| error.to_string().contains(why)), "{error}");
        }
    }
}

fn has_long_integer(text: &[u8]) -> bool {
    text.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= 19)
}

/// Bodies of every endpoint, the endpoint's number first.
pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let ids = || Value::strs([ids::EMPTY.to_owned(), ids::sha256_hex(b"a"), format!("sha256:{}", ids::EMPTY)]);
    let object = || {
        let fields = [("object_id", Value::str(ids::sha256_hex(b"abc"))), ("content", Value::Bin(b"abc".to_vec()))];
        Value::Array(vec![Value::map(fields)])
    };
    let records = |seeds: Vec<Vec<u8>>| {
        let record = |text: Vec<u8>| {
            let mut out = Vec::new();
            transcode::append(&text, &mut out).expect("a sound record");
            Value::decode(&out).expect("a sound record")
        };
        Value::Array(seeds.into_iter().map(record).collect())
    };
    let bundle = Value::map([
        ("commits", records(record::commit_seeds())),
        ("snapshots", records(record::snapshot_seeds())),
        ("objects", object()),
        ("branch_heads", Value::map::<String>([])),
    ]);
    let push = Value::map([("bundle", bundle), ("branch", Value::str("main")), ("force", Value::Bool(false))]);
    let bodies = [
        Value::map([("object_ids", ids()), ("hint", Value::Nil)]),
        Value::map([("want", ids()), ("have", ids())]),
        Value::map([("objects", object())]),
        push,
    ];
    bodies.iter().zip(0_u8..).map(|(body, which)| [&[which], &body.encode()[..]].concat()).collect()
}

/// Records, and the bodies above: whole values too.
pub(super) fn value_seeds() -> Vec<Vec<u8>> {
    let record = |text: &Vec<u8>| {
        let mut out = Vec::new();
        transcode::append(text, &mut out).expect("a sound record");
        out
    };
    let bodies = request_seeds().into_iter().map(|seed| seed[1..].to_vec());
    record::seeds().iter().map(record).chain(bodies).collect()
}

/// Bytes that arrive one to five at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let len = piece.len().min(into.len());
        into[..len].copy_from_slice(&piece[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Trickle<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.0.len().min(1 + self.0.len() % 5)])
    }

    fn consume(&mut self, amount: usize) {
        self.0 = &self.0[amount..];
    }
}

impl Source for Trickle<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        self.0.skip(count)
    }
}

/// Few, so that a small body passes a cap.
const CAP: usize = 8;
const CAPS: PushCaps = PushCaps { commits: CAP, snapshots: CAP, objects: CAP, record_bytes: 400, blob_bytes: 40 };
