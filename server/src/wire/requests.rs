//! The request bodies of MWP §5, as the hub wants them: ids, spans, records.
//!
//! Invariants: keys may come in any order and unknown ones are stepped over; a key that stands twice, or is missing
//! where it is needed, is refused by name; contents are not read here, only where they stand.

use reprise_engine::id::ObjectId;

use super::{Decoder, Field, Source, WireError};

/// Where a record or content stands in a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// A blob in a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectSpan {
    /// The id that its sender gives it.
    pub id: ObjectId,
    /// Its bytes.
    pub content: Span,
}

/// A snapshot in a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotSpan {
    /// The id that its sender gives it.
    pub id: ObjectId,
    /// The record.
    pub record: Span,
}

/// What `push` asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PushIndex {
    /// Commit records, tip first.
    pub commits: Vec<Span>,
    /// Snapshot records.
    pub snapshots: Vec<SnapshotSpan>,
    /// Blobs (the command line sends none here).
    pub objects: Vec<ObjectSpan>,
    /// Which branch to move.
    pub branch: String,
    /// Whether anything but a fast-forward is wanted.
    pub force: bool,
}

/// Counts that a push may not pass.
#[derive(Clone, Copy, Debug)]
pub struct PushCaps {
    /// Commits.
    pub commits: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Blobs.
    pub objects: usize,
    /// Bytes of one record.
    pub record_bytes: u64,
    /// Bytes of one blob.
    pub blob_bytes: u64,
}

/// `{object_ids: [str], …}`: the ids as sent.
pub fn object_ids<S: Source>(source: S, max: usize) -> Result<Vec<ObjectId>, WireError> {
    let mut found = None;
    each_key(source, |decoder, key, field| match key {
        "object_ids" => once(&mut found, ids(decoder, "ids", max, field)?, field),
        _ => decoder.skip(field),
    })?;
    found.ok_or_else(|| absent("object_ids"))
}

/// `{want: [str], have: [str]}`: the ids as sent. A missing `have` is empty.
pub fn want_have<S: Source>(
    source: S,
    want_max: usize,
    have_max: usize,
) -> Result<(Vec<ObjectId>, Vec<ObjectId>), WireError> {
    let (mut want, mut have) = (None, None);
    each_key(source, |decoder, key, field| match key {
        "want" => once(&mut want, ids(decoder, "wanted commits", want_max, field)?, field),
        "have" => once(&mut have, ids(decoder, "commits in 'have'", have_max, field)?, field),
        _ => decoder.skip(field),
    })?;
    Ok((want.ok_or_else(|| absent("want"))?, have.unwrap_or_default()))
}

/// What `fetch/mpack` and `fetch/presign` ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Wanted commits.
    pub want: Vec<ObjectId>,
    /// Commits that the client has.
    pub have: Vec<ObjectId>,
    /// A branch whose head is wanted, too.
    pub branch: Option<String>,
    /// Whether packs may be fetched from the bucket itself.
    pub direct: bool,
}

/// `{want: [str], have: [str], branch: str, direct: bool}`: the ids as sent. Without `branch` there must be a `want`.
pub fn transfer<S: Source>(source: S, want_max: usize, have_max: usize) -> Result<Transfer, WireError> {
    let (mut want, mut have, mut branch, mut direct) = (None, None, None, None);
    each_key(source, |decoder, key, field| match key {
        "want" => once(&mut want, ids(decoder, "wanted commits", want_max, field)?, field),
        "have" => once(&mut have, ids(decoder, "commits in 'have'", have_max, field)?, field),
        "branch" => once(&mut branch, decoder.text(REF_TEXT_MAX, field)?, field),
        "direct" => once(&mut direct, decoder.boolean(field)?, field),
        _ => decoder.skip(field),
    })?;
    if want.is_none() && branch.is_none() {
        return Err(absent("want"));
    }
    let (want, have) = (want.unwrap_or_default(), have.unwrap_or_default());
    Ok(Transfer { want, have, branch, direct: direct.unwrap_or(true) })
}

/// A pack that is to be uploaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Its length.
    pub bytes: u64,
    /// Its hash.
    pub sha256: [u8; 32],
    /// Whether it may go to the bucket itself.
    pub direct: bool,
}

/// `{bytes: int, sha256: str, direct: bool}`: what a pack that is to be uploaded will be.
pub fn announcement<S: Source>(source: S) -> Result<Announcement, WireError> {
    let (mut bytes, mut sha256, mut direct) = (None, None, None);
    each_key(source, |decoder, key, field| match key {
        "bytes" => once(&mut bytes, decoder.unsigned(field)?, field),
        "sha256" => once(&mut sha256, decoder.id(field)?, field),
        "direct" => once(&mut direct, decoder.boolean(field)?, field),
        _ => decoder.skip(field),
    })?;
    let sha256: ObjectId = sha256.ok_or_else(|| absent("sha256"))?;
    let bytes = bytes.ok_or_else(|| absent("bytes"))?;
    Ok(Announcement { bytes, sha256: sha256.0, direct: direct.unwrap_or(true) })
}

/// What `push/unpack-mpack` asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unpack {
    /// Uploads, by the names that they were announced under.
    pub uploads: Vec<String>,
    /// Which branch to move.
    pub branch: String,
    /// Where to.
    pub tip: ObjectId,
    /// Whether anything but a fast-forward is wanted.
    pub force: bool,
}

/// `{uploads: [str], branch: str, tip: str, force: bool}`.
pub fn unpack<S: Source>(source: S, uploads_max: usize) -> Result<Unpack, WireError> {
    let (mut uploads, mut branch, mut tip, mut force) = (None, None, None, None);
    each_key(source, |decoder, key, field| match key {
        "uploads" => once(&mut uploads, texts(decoder, "uploads", uploads_max, field)?, field),
        "branch" => once(&mut branch, decoder.text(REF_TEXT_MAX, field)?, field),
        "tip" => once(&mut tip, decoder.id(field)?, field),
        "force" => once(&mut force, decoder.boolean(field)?, field),
        _ => decoder.skip(field),
    })?;
    let uploads = uploads.ok_or_else(|| absent("uploads"))?;
    let branch = branch.ok_or_else(|| absent("branch"))?;
    Ok(Unpack { uploads, branch, tip: tip.ok_or_else(|| absent("tip"))?, force: force.unwrap_or(false) })
}

/// `{objects: [{object_id, content}]}`: where each stands.
pub fn objects<S: Source>(source: S, caps: &PushCaps) -> Result<Vec<ObjectSpan>, WireError> {
    let mut found = None;
    each_key(source, |decoder, key, field| match key {
        "objects" => once(&mut found, object_list(decoder, caps, field)?, field),
        _ => decoder.skip(field),
    })?;
    found.ok_or_else(|| absent("objects"))
}

/// `{bundle: {commits, snapshots, objects, …}, branch, force}`: where each stands.
pub fn push<S: Source>(source: S, caps: &PushCaps) -> Result<PushIndex, WireError> {
    let (mut bundle, mut branch, mut force) = (None, None, None);
    each_key(source, |decoder, key, field| match key {
        "bundle" => once(&mut bundle, push_bundle(decoder, caps, field)?, field),
        "branch" => once(&mut branch, decoder.text(REF_TEXT_MAX, field)?, field),
        "force" => once(&mut force, decoder.boolean(field)?, field),
        _ => decoder.skip(field),
    })?;
    let mut index = bundle.ok_or_else(|| absent("bundle"))?;
    index.branch = branch.ok_or_else(|| absent("branch"))?;
    index.force = force.unwrap_or(false);
    Ok(index)
}

fn push_bundle<S: Source>(
    decoder: &mut Decoder<S>,
    caps: &PushCaps,
    field: &Field<'_>,
) -> Result<PushIndex, WireError> {
    let (mut commits, mut snapshots, mut objects) = (None, None, None);
    map_keys(decoder, field, |decoder, key, field| match key {
        "commits" => once(&mut commits, commit_list(decoder, caps, field)?, field),
        "snapshots" => once(&mut snapshots, snapshot_list(decoder, caps, field)?, field),
        "objects" => once(&mut objects, object_list(decoder, caps, field)?, field),
        // branch_heads and tags of a bundle are allowed and mean nothing (MWP §5.6).
        _ => decoder.skip(field),
    })?;
    Ok(PushIndex {
        commits: commits.unwrap_or_default(),
        snapshots: snapshots.unwrap_or_default(),
        objects: objects.unwrap_or_default(),
        branch: String::new(),
        force: false,
    })
}

fn commit_list<S: Source>(
    decoder: &mut Decoder<S>,
    caps: &PushCaps,
    field: &Field<'_>,
) -> Result<Vec<Span>, WireError> {
    let count = decoder.list("commits", caps.commits, field)?;
    let mut spans = Vec::new();
    for index in 0..count {
        let field = field.index(index);
        let start = decoder.position();
        decoder.skip(&field)?;
        spans.push(record_span(start, decoder.position(), caps, &field)?);
    }
    Ok(spans)
}

fn snapshot_list<S: Source>(
    decoder: &mut Decoder<S>,
    caps: &PushCaps,
    field: &Field<'_>,
) -> Result<Vec<SnapshotSpan>, WireError> {
    let count = decoder.list("snapshots", caps.snapshots, field)?;
    let mut spans = Vec::new();
    for index in 0..count {
        let field = field.index(index);
        let start = decoder.position();
        let mut id = None;
        map_keys(decoder, &field, |decoder, key, field| match key {
            "snapshot_id" => once(&mut id, decoder.id(field)?, field),
            _ => decoder.skip(field),
        })?;
        let record = record_span(start, decoder.position(), caps, &field)?;
        spans.push(SnapshotSpan { id: id.ok_or_else(|| absent(&field.key("snapshot_id").to_string()))?, record });
    }
    Ok(spans)
}

fn object_list<S: Source>(
    decoder: &mut Decoder<S>,
    caps: &PushCaps,
    field: &Field<'_>,
) -> Result<Vec<ObjectSpan>, WireError> {
    let count = decoder.list("objects", caps.objects, field)?;
    let mut spans = Vec::new();
    for index in 0..count {
        spans.push(object(decoder, caps, &field.index(index))?);
    }
    Ok(spans)
}

fn object<S: Source>(decoder: &mut Decoder<S>, caps: &PushCaps, field: &Field<'_>) -> Result<ObjectSpan, WireError> {
    let (mut id, mut content) = (None, None);
    map_keys(decoder, field, |decoder, key, field| match key {
        "object_id" => once(&mut id, decoder.id(field)?, field),
        "content" => {
            let (offset, len) = decoder.bin_span(field)?;
            if u64::from(len) > caps.blob_bytes {
                return Err(WireError::TooLarge(format!(
                    "{field}: {len} bytes in one blob; the limit is {}",
                    caps.blob_bytes
                )));
            }
            once(&mut content, Span { offset, len }, field)
        }
        _ => decoder.skip(field),
    })?;
    let id = id.ok_or_else(|| absent(&field.key("object_id").to_string()))?;
    Ok(ObjectSpan { id, content: content.ok_or_else(|| absent(&field.key("content").to_string()))? })
}

fn record_span(start: u64, end: u64, caps: &PushCaps, field: &Field<'_>) -> Result<Span, WireError> {
    let len = end - start;
    match u32::try_from(len) {
        Ok(len) if u64::from(len) <= caps.record_bytes => Ok(Span { offset: start, len }),
        _ => {
            Err(WireError::TooLarge(format!("{field}: {len} bytes in one record; the limit is {}", caps.record_bytes)))
        }
    }
}

fn ids<S: Source>(
    decoder: &mut Decoder<S>,
    what: &str,
    max: usize,
    field: &Field<'_>,
) -> Result<Vec<ObjectId>, WireError> {
    let count = decoder.list(what, max, field)?;
    let mut ids = Vec::new();
    for index in 0..count {
        ids.push(decoder.id(&field.index(index))?);
    }
    Ok(ids)
}

fn texts<S: Source>(
    decoder: &mut Decoder<S>,
    what: &str,
    max: usize,
    field: &Field<'_>,
) -> Result<Vec<String>, WireError> {
    let count = decoder.list(what, max, field)?;
    let mut texts = Vec::new();
    for index in 0..count {
        texts.push(decoder.text(NAME_TEXT_MAX, &field.index(index))?);
    }
    Ok(texts)
}

/// The body's one map, key by key; nothing may follow it.
fn each_key<S: Source>(
    source: S,
    each: impl FnMut(&mut Decoder<S>, &str, &Field<'_>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut decoder = Decoder::new(source);
    map_keys(&mut decoder, &Field::root("body"), each)?;
    decoder.finish()
}

fn map_keys<S: Source>(
    decoder: &mut Decoder<S>,
    field: &Field<'_>,
    mut each: impl FnMut(&mut Decoder<S>, &str, &Field<'_>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    for _ in 0..decoder.map(field)? {
        let key = decoder.text(KEY_BYTES_MAX, &field.key("(key)"))?;
        each(decoder, &key, &field.key(&key))?;
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, value: T, field: &Field<'_>) -> Result<(), WireError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(WireError::Invalid(format!("{field}: the key stands twice"))),
    }
}

fn absent(name: &str) -> WireError {
    WireError::Invalid(format!("{name} is missing"))
}

/// Longest key that is read; longer ones name nothing we know.
const KEY_BYTES_MAX: usize = 4_096;
/// Longest branch name that is read before its grammar is checked.
const REF_TEXT_MAX: usize = 4_096;
/// Bytes of the name of an upload.
const NAME_TEXT_MAX: usize = 128;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use super::*;
    use crate::wire::encode;

    const CAPS: PushCaps = PushCaps { commits: 10, snapshots: 10, objects: 2, record_bytes: 1_000, blob_bytes: 100 };

    fn body(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::map_header(&mut out, encode::len32(pairs.len()));
        for (key, value) in pairs {
            encode::text(&mut out, key);
            out.extend_from_slice(value);
        }
        out
    }

    fn id_text(byte: u8) -> Vec<u8> {
        let mut out = Vec::new();
        encode::id(&mut out, &[byte; 32]);
        out
    }

    fn object_bytes(content_first: bool) -> Vec<u8> {
        let id = id_text(7);
        let content = [&[0xc4, 3][..], b"abc"].concat();
        let object = match content_first {
            true => body(&[("content", &content), ("object_id", &id)]),
            false => body(&[("object_id", &id), ("path", &[0xa0]), ("content", &content)]),
        };
        body(&[("objects", &[&[0x91][..], &object].concat())])
    }

    #[test]
    fn an_object_is_found_whichever_of_its_keys_comes_first() {
        for content_first in [true, false] {
            let bytes = object_bytes(content_first);
            let found = objects(&bytes[..], &CAPS).unwrap();
            assert_eq!(found.len(), 1);
            let start = usize::try_from(found[0].content.offset).unwrap();
            assert_eq!((found[0].id, &bytes[start..start + 3]), (ObjectId([7; 32]), &b"abc"[..]));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = object_bytes(false);
        for end in 0..bytes.len() {
            assert!(objects(&bytes[..end], &CAPS).is_err(), "{end}");
        }
    }

    #[test]
    fn a_limit_is_named_with_its_value() {
        let mut list = vec![0x93];
        for _ in 0..3 {
            list.extend(body(&[("object_id", &id_text(1)), ("content", &[0xc4, 0])]));
        }
        let error = objects(&body(&[("objects", &list)])[..], &CAPS).unwrap_err();
        assert_eq!(error.to_string(), "body.objects: 3 objects in one request; the limit is 2");
    }

    #[test]
    fn a_text_content_is_refused_and_a_doubled_key_too() {
        let object = body(&[("object_id", &id_text(1)), ("content", &[0xa1, b'x'])]);
        let error = objects(&body(&[("objects", &[&[0x91][..], &object].concat())])[..], &CAPS).unwrap_err();
        assert_eq!(error.to_string(), "body.objects[0].content: a str where a bin belongs");
        let error = object_ids(&body(&[("object_ids", &[0x90]), ("object_ids", &[0x90])])[..], 9).unwrap_err();
        assert!(error.to_string().contains("stands twice"), "{error}");
    }

    #[test]
    fn a_push_is_indexed_in_any_order_of_keys() {
        let snapshot = body(&[("manifest", &[0x80]), ("snapshot_id", &id_text(9))]);
        let bundle =
            body(&[("snapshots", &[&[0x91][..], &snapshot].concat()), ("tags", &[0x90]), ("commits", &[0x91, 0x80])]);
        let bytes = body(&[("force", &[0xc3]), ("bundle", &bundle), ("branch", &[0xa4, b'm', b'a', b'i', b'n'])]);
        let index = push(&bytes[..], &CAPS).unwrap();
        assert_eq!((index.branch.as_str(), index.force, index.commits.len()), ("main", true, 1));
        assert_eq!(index.snapshots[0].id, ObjectId([9; 32]));
    }
}
