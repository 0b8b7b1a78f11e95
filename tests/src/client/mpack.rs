//! Packs as a client of direct transfer reads and writes them (API.md, FORMAT.md §3): with its own layout, never the engine's.
//!
//! Invariants: every byte of a pack that is read is accounted for and checked, by panics that say where; what is written is raw
//! entries, or zstd ones on demand.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{http::Failure, pack::Applied, repository::Repository, value::Value};

/// Kinds in the order of the table.
pub const KINDS: [&str; 3] = ["blob", "snapshot", "commit"];

/// One object of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// 0 blob, 1 snapshot, 2 commit.
    pub kind: u8,
    /// 0 raw, 1 zstd, 2 zstd against a base.
    pub codec: u8,
    /// 64 hex digits.
    pub id: String,
    /// Where its stored form begins.
    pub offset: u64,
    /// Bytes of its stored form.
    pub stored_len: u64,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A pack that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pack {
    /// From the header, hex.
    pub repo: String,
    /// From the header, hex.
    pub push: String,
    /// In body order.
    pub entries: Vec<Entry>,
}

/// Reads a pack; panics at the first byte that is not as the format says.
pub fn read(bytes: &[u8]) -> Pack {
    assert_eq!(&bytes[..8], b"RPRSPACK");
    assert_eq!(u32_at(bytes, 8), 1);
    assert_eq!(crc32c::crc32c(&bytes[..60]), u32_at(bytes, 60));
    let (mut at, mut entries, mut base) = (64, Vec::new(), None);
    let mut rows = Vec::new();
    loop {
        let preamble = &bytes[at..at + 64];
        let crc = crc32c::crc32c_append(crc32c::crc32c(&preamble[..28]), &preamble[32..]);
        assert_eq!(crc, u32_at(preamble, 28), "the preamble at {at}");
        let (kind, codec, streamed) = (preamble[0], preamble[1], preamble[2] == 1);
        let real_len = usize::try_from(u64_at(preamble, 8)).expect("a length");
        at += 64;
        if kind == 0xff {
            assert_eq!(real_len, entries.len(), "the end mark");
            break;
        }
        let stored_len = match (streamed, codec) {
            (false, _) => u32_at(preamble, 16) as usize,
            (true, 0) => real_len,
            (true, _) => zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]).expect("a frame"),
        };
        let stored = &bytes[at..at + stored_len];
        let offset = at as u64;
        at += stored_len;
        let seal = &bytes[at..at + if streamed { 48 } else { 0 }];
        at += seal.len();
        let (id, stored_crc) = match streamed {
            false => (hex::encode(&preamble[32..]), u32_at(preamble, 4)),
            true => {
                assert_eq!(crc32c::crc32c(&seal[..44]), u32_at(seal, 44), "the seal before {at}");
                assert_eq!(u64_at(seal, 32), stored_len as u64);
                (hex::encode(&seal[..32]), u32_at(seal, 40))
            }
        };
        assert_eq!(crc32c::crc32c(stored), stored_crc, "{id}");
        let payload = match codec {
            0 => stored.to_vec(),
            1 => inflate(stored, &[], real_len),
            _ => {
                let (ordinal, payload): &(u32, Vec<u8>) = base.as_ref().expect("a base before it");
                assert_eq!(*ordinal, u32_at(preamble, 20), "the nearest whole snapshot is the base");
                inflate(stored, payload, real_len)
            }
        };
        assert_eq!(payload.len(), real_len, "{id}");
        let base_ordinal = if codec == 2 { u32_at(preamble, 20) } else { u32::MAX };
        if kind == 1 && codec != 2 {
            base = Some((u32::try_from(entries.len()).expect("few"), payload.clone()));
        }
        let hash = match kind {
            0 => {
                assert_eq!(hex::encode(Sha256::digest(&payload)), id);
                [0; 32]
            }
            _ => record_hash(kind, &payload),
        };
        let stored_len = stored_len as u64;
        rows.push((kind, codec, base_ordinal, offset, stored_len, real_len as u64, id.clone(), hash));
        entries.push(Entry { kind, codec, id, offset, stored_len, payload });
    }
    check_tail(bytes, at, rows);
    Pack { repo: hex::encode(&bytes[12..28]), push: hex::encode(&bytes[28..44]), entries }
}

/// The ranges that a plan lists for a pack (offset, length).
pub fn ranges_of(listed: &Value) -> Vec<(u64, u64)> {
    let number = |value: &Value| u64::try_from(value.as_int().expect("a number")).expect("a length");
    let range = |range: &Value| match range {
        Value::Array(pair) => (number(&pair[0]), number(&pair[1])),
        other => panic!("no range: {other:?}"),
    };
    listed.items("ranges").iter().map(range).collect()
}

/// The rows that a plan lists for a pack.
pub fn rows_of(listed: &Value) -> &[u8] {
    match listed.get("rows") {
        Some(Value::Bin(rows)) => rows,
        other => panic!("no rows: {other:?}"),
    }
}

/// Reads the entries that `rows` describe out of parts of a stored pack, each with its offset; panics at the first byte that is
/// not what its row says.
pub fn read_rows(rows: &[u8], parts: &[(u64, Vec<u8>)]) -> Vec<Entry> {
    let stored = |row: &[u8]| {
        let (offset, len) = (u64_at(row, 8), u64_at(row, 16));
        let holds = |part: &&(u64, Vec<u8>)| part.0 <= offset && offset + len <= part.0 + part.1.len() as u64;
        let (start, bytes) = parts.iter().find(holds).expect("a range that covers it");
        let at = usize::try_from(offset - start).expect("in memory");
        &bytes[at..at + usize::try_from(len).expect("in memory")]
    };
    let payload = |row: &[u8], base: &[u8]| {
        let real_len = usize::try_from(u64_at(row, 24)).expect("a length");
        let payload = if row[1] == 0 { stored(row).to_vec() } else { inflate(stored(row), base, real_len) };
        assert_eq!(payload.len(), real_len);
        match row[0] {
            0 => assert_eq!(Sha256::digest(&payload)[..], row[32..64]),
            kind => assert_eq!(record_hash(kind, &payload), row[64..96]),
        }
        payload
    };
    let rows: Vec<&[u8]> = rows.chunks_exact(96).collect();
    let entry = |row: &&[u8]| {
        let base = rows.get(u32_at(row, 4) as usize).map(|base| payload(base, &[])).unwrap_or_default();
        Entry {
            kind: row[0],
            codec: row[1],
            id: hex::encode(&row[32..64]),
            offset: u64_at(row, 8),
            stored_len: u64_at(row, 16),
            payload: payload(row, &base),
        }
    };
    rows.iter().map(entry).collect()
}

/// Kind, codec, base, offset, stored length, real length, id, record hash.
type Row = (u8, u8, u32, u64, u64, u64, String, [u8; 32]);

fn check_tail(bytes: &[u8], body_end: usize, rows: Vec<Row>) {
    let table = table_of(rows);
    let table_end = body_end + table.len();
    assert!(bytes[body_end..table_end] == table, "the table");
    let footer = &bytes[table_end..];
    let is_transfer = bytes[28..44] == [0; 16];
    let body_hash: [u8; 32] = if is_transfer { [0; 32] } else { Sha256::digest(&bytes[..body_end]).into() };
    assert_eq!(footer, footer_of(body_end, &table, body_hash), "the footer");
}

/// The table of rows in body order, whose bases are ordinals in it.
fn table_of(rows: Vec<Row>) -> Vec<u8> {
    let names: Vec<(u8, String)> = rows.iter().map(|row| (row.0, row.6.clone())).collect();
    let mut sorted = rows;
    sorted.sort_by(|one, other| (one.0, &one.6).cmp(&(other.0, &other.6)));
    let place = |name: &(u8, String)| {
        let place = sorted.iter().position(|row| (row.0, &row.6) == (name.0, &name.1));
        u32::try_from(place.expect("a row")).expect("few")
    };
    let mut out = Vec::new();
    for (kind, codec, base, offset, stored_len, real_len, id, hash) in &sorted {
        let base = if *base == u32::MAX { u32::MAX } else { place(&names[*base as usize]) };
        out.extend_from_slice(&[*kind, *codec, 0, 0]);
        out.extend_from_slice(&base.to_le_bytes());
        for number in [offset, stored_len, real_len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&hex::decode(id).expect("hex"));
        out.extend_from_slice(hash);
    }
    out
}

fn footer_of(table_offset: usize, table: &[u8], body_hash: [u8; 32]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(table_offset as u64).to_le_bytes());
    out.extend_from_slice(&(table.len() as u64).to_le_bytes());
    out.extend_from_slice(&u32::try_from(table.len() / 96).expect("few").to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&Sha256::digest(table));
    out.extend_from_slice(&body_hash);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(b"RPRSPEND");
    out
}

/// An object to be written.
#[derive(Clone, Debug)]
pub struct Object {
    /// 0 blob, 1 snapshot, 2 commit.
    pub kind: u8,
    /// 64 hex digits; nobody checks here that it fits.
    pub id: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Writes a pack of raw entries, in this order. `repo` and `push` are 32 hex digits, dashes aside.
pub fn write(repo: &str, push: &str, nonce: u8, objects: &[Object]) -> Vec<u8> {
    let id16 = |text: &str| hex::decode(text.replace('-', "")).expect("an id");
    let mut out = b"RPRSPACK".to_vec();
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&id16(repo));
    out.extend_from_slice(&id16(push));
    out.extend_from_slice(&[nonce; 16]);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    let mut rows = Vec::new();
    for Object { kind, id, payload } in objects {
        let len = payload.len() as u64;
        let id_bytes = hex::decode(id).expect("hex");
        out.extend_from_slice(&preamble_of(*kind, crc32c::crc32c(payload), len, &id_bytes));
        let hash = if *kind == 0 { [0; 32] } else { record_hash(*kind, payload) };
        rows.push((*kind, 0, u32::MAX, out.len() as u64, len, len, id.clone(), hash));
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(&preamble_of(0xff, 0, objects.len() as u64, &[0; 32]));
    let (body_end, body_hash) = (out.len(), Sha256::digest(&out).into());
    let table = table_of(rows);
    out.extend_from_slice(&table);
    out.extend_from_slice(&footer_of(body_end, &table, body_hash));
    out
}

fn preamble_of(kind: u8, stored_crc: u32, real_len: u64, id: &[u8]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&stored_crc.to_le_bytes());
    bytes[8..16].copy_from_slice(&real_len.to_le_bytes());
    if kind != 0xff {
        bytes[16..20].copy_from_slice(&u32::try_from(real_len).expect("short").to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[32..].copy_from_slice(id);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[32..]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Everything that `commits` bring: their records and snapshots, and those of `blobs`.
pub fn objects_of(repository: &Repository, commits: &[String], blobs: &[String]) -> Vec<Object> {
    let record = |kind: u8, id: &str, record: &Value| Object {
        kind,
        id: id.to_owned(),
        payload: json_of(record).to_string().into_bytes(),
    };
    let mut snapshots = BTreeMap::new();
    let mut objects = Vec::new();
    for id in commits {
        let commit = &repository.commits[id];
        objects.push(record(2, id, commit));
        let snapshot = commit.text("snapshot_id");
        snapshots.insert(snapshot.to_owned(), record(1, snapshot, &repository.snapshots[snapshot]));
    }
    objects.extend(snapshots.into_values());
    let blob = |id: &String| Object { kind: 0, id: id.clone(), payload: repository.objects[id].to_vec() };
    objects.extend(blobs.iter().map(blob));
    objects
}

/// Writes what a pack holds into `repository`: its bases are dropped, everything else is kept.
pub fn apply(repository: &mut Repository, pack: &Pack) -> Result<Applied, Failure> {
    let mut applied = Applied::default();
    let records = |kind: u8| pack.entries.iter().filter(move |entry| entry.kind == kind);
    let mut named = Vec::new();
    for entry in records(2) {
        let record = value_of(&serde_json::from_slice(&entry.payload).expect("JSON"));
        named.push(record.text("snapshot_id").to_owned());
        repository.commits.entry(entry.id.clone()).or_insert(record);
        applied.commits += 1;
    }
    for entry in records(1).filter(|entry| named.contains(&entry.id)) {
        let record = value_of(&serde_json::from_slice(&entry.payload).expect("JSON"));
        repository.snapshots.entry(entry.id.clone()).or_insert(record);
        applied.snapshots += 1;
    }
    for entry in records(0) {
        repository.objects.entry(entry.id.clone()).or_insert_with(|| entry.payload.as_slice().into());
        applied.objects += 1;
    }
    Ok(applied)
}

/// A record as canonical JSON has it.
pub fn json_of(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => i64::try_from(*value).map_or_else(|_| Json::from(*value as u64), Json::from),
        Value::Float(value) => Json::from(*value),
        Value::Str(text) => Json::from(text.as_str()),
        Value::Array(items) => items.iter().map(json_of).collect(),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| (key.as_str().expect("a text").to_owned(), json_of(value));
            Json::Object(pairs.iter().map(pair).collect())
        }
        Value::Bin(_) | Value::Ext(..) => panic!("JSON has no {value:?}"),
    }
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value.into()),
            None => number
                .as_u64()
                .map_or_else(|| Value::Float(number.as_f64().expect("a number")), |value| Value::Int(value.into())),
        },
        Json::String(text) => Value::str(text),
        Json::Array(items) => Value::Array(items.iter().map(value_of).collect()),
        Json::Object(fields) => Value::map(fields.iter().map(|(key, value)| (key, value_of(value)))),
    }
}

fn record_hash(kind: u8, payload: &[u8]) -> [u8; 32] {
    let head = format!("{} {}\0", KINDS[usize::from(kind)], payload.len());
    Sha256::new().chain_update(head).chain_update(payload).finalize().into()
}

fn inflate(stored: &[u8], base: &[u8], real_len: usize) -> Vec<u8> {
    let mut context = zstd::zstd_safe::DCtx::create();
    let window = zstd::zstd_safe::DParameter::WindowLogMax(27);
    context.set_parameter(window).expect("a window");
    if !base.is_empty() {
        context.ref_prefix(base).expect("a prefix");
    }
    let mut out = Vec::with_capacity(real_len + 1);
    context.decompress(&mut out, stored).expect("a zstd frame");
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
